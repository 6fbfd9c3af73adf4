package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"
)

// Provisioner is the name that the StorageClass refers to.
const provisioner = "heliosdb.io/directory"

func newVolumesCommand() *cobra.Command {
	var kubeconfig, root string
	command := &cobra.Command{
		Use:   "volumes",
		Short: "Serve every PersistentVolumeClaim with a directory under ROOT/NODE",
		RunE: func(command *cobra.Command, _ []string) error {
			config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
			if err != nil {
				return err
			}
			client, err := kubernetes.NewForConfig(config)
			if err != nil {
				return err
			}
			return serveVolumes(command.Context(), client, root)
		},
	}
	command.Flags().StringVar(&kubeconfig, "kubeconfig", "", "file with the cluster's address and credentials")
	command.Flags().StringVar(&root, "root", "", "directory that holds one directory for each node")
	return command
}

func serveVolumes(ctx context.Context, client kubernetes.Interface, root string) error {
	factory := informers.NewSharedInformerFactory(client, 0)
	claims := factory.Core().V1().PersistentVolumeClaims().Informer()
	grow := func(object any) {
		if claim, ok := object.(*core.PersistentVolumeClaim); ok {
			if err := growVolume(ctx, client, claim); err != nil {
				klog.ErrorS(err, "volume not grown, tried again at the claim's next change", "claim", klog.KObj(claim))
			}
		}
	}
	_, err := claims.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    grow,
		UpdateFunc: func(_, object any) { grow(object) },
	})
	if err != nil {
		return err
	}
	factory.Start(ctx.Done())
	controller.NewProvisionController(ctx, client, provisioner, directories{root},
		controller.LeaderElection(false),
		controller.ClaimsInformer(claims),
	).Run(ctx)
	return nil
}

// directories makes volumes of plain directories. All nodes are on one machine, so it reaches each node's disk itself.
type directories struct{ root string }

func (d directories) Provision(_ context.Context, options controller.ProvisionOptions) (*core.PersistentVolume, controller.ProvisioningState, error) {
	node := options.SelectedNodeName
	if node == "" {
		return nil, controller.ProvisioningFinished, errors.New("no node selected: the StorageClass must say volumeBindingMode: WaitForFirstConsumer")
	}
	path := filepath.Join(d.root, node, options.PVName)
	if err := os.MkdirAll(path, 0o777); err != nil {
		return nil, controller.ProvisioningFinished, err
	}
	// Not subject to the umask: a pod without fsGroup may run as any user.
	if err := os.Chmod(path, 0o777); err != nil {
		return nil, controller.ProvisioningFinished, err
	}
	return &core.PersistentVolume{
		ObjectMeta: meta.ObjectMeta{Name: options.PVName},
		Spec: core.PersistentVolumeSpec{
			PersistentVolumeReclaimPolicy: *options.StorageClass.ReclaimPolicy,
			AccessModes:                   options.PVC.Spec.AccessModes,
			Capacity:                      core.ResourceList{core.ResourceStorage: options.PVC.Spec.Resources.Requests[core.ResourceStorage]},
			PersistentVolumeSource:        core.PersistentVolumeSource{Local: &core.LocalVolumeSource{Path: path}},
			NodeAffinity:                  onNode(node),
		},
	}, controller.ProvisioningFinished, nil
}

func (d directories) Delete(_ context.Context, volume *core.PersistentVolume) error {
	path := volume.Spec.Local.Path
	if inside, err := filepath.Rel(d.root, path); err != nil || !filepath.IsLocal(inside) {
		return fmt.Errorf("volume %s is at %s, outside of %s", volume.Name, path, d.root)
	}
	return os.RemoveAll(path)
}

func onNode(name string) *core.VolumeNodeAffinity {
	return &core.VolumeNodeAffinity{Required: &core.NodeSelector{NodeSelectorTerms: []core.NodeSelectorTerm{{
		MatchExpressions: []core.NodeSelectorRequirement{{Key: core.LabelHostname, Operator: core.NodeSelectorOpIn, Values: []string{name}}},
	}}}}
}

// growVolume does what a CSI resizer does elsewhere: a directory has all the room already, only the records change.
func growVolume(ctx context.Context, client kubernetes.Interface, claim *core.PersistentVolumeClaim) error {
	asked := claim.Spec.Resources.Requests[core.ResourceStorage]
	if claim.Status.Phase != core.ClaimBound || asked.Cmp(claim.Status.Capacity[core.ResourceStorage]) <= 0 {
		return nil
	}
	volume, err := client.CoreV1().PersistentVolumes().Get(ctx, claim.Spec.VolumeName, meta.GetOptions{})
	if err != nil {
		return err
	}
	if volume.Annotations["pv.kubernetes.io/provisioned-by"] != provisioner {
		return nil
	}
	volume.Spec.Capacity[core.ResourceStorage] = asked
	if _, err := client.CoreV1().PersistentVolumes().Update(ctx, volume, meta.UpdateOptions{}); err != nil {
		return err
	}
	grown := claim.DeepCopy()
	grown.Status.Capacity[core.ResourceStorage] = asked
	grown.Status.Conditions = nil
	_, err = client.CoreV1().PersistentVolumeClaims(claim.Namespace).UpdateStatus(ctx, grown, meta.UpdateOptions{})
	return err
}
