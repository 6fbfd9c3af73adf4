{{- define "helios.fullname" -}}
{{- if .Values.fullnameOverride }}{{ .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if contains $name .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "helios.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}{{ default (include "helios.fullname" .) .Values.serviceAccount.name }}
{{- else }}{{ default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "helios.selector" -}}
app.kubernetes.io/name: helios-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "helios.labels" -}}
{{ include "helios.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: operator
app.kubernetes.io/part-of: heliosdb
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{- end }}

{{- /* Name of the webhook's objects. */ -}}
{{- define "helios.webhook" -}}
{{ include "helios.fullname" . }}-webhook
{{- end }}

{{- define "helios.webhookSelector" -}}
app.kubernetes.io/name: helios-webhook
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "helios.webhookLabels" -}}
{{ include "helios.webhookSelector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: webhook
app.kubernetes.io/part-of: heliosdb
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{- end }}

{{- /* Which pods get a sidecar: those with the label, in the namespaces that the operator watches. */ -}}
{{- define "helios.injected" -}}
objectSelector:
  matchExpressions:
    - key: heliosdb.io/inject
      operator: Exists
namespaceSelector:
  matchExpressions:
    - key: kubernetes.io/metadata.name
      operator: NotIn
      values: [kube-system, {{ .Release.Namespace }}]
    {{- with include "helios.namespaces" . }}
    - key: kubernetes.io/metadata.name
      operator: In
      values:
        {{- splitList "," . | toYaml | nindent 8 }}
    {{- end }}
{{- end }}

{{- define "helios.image" -}}
{{- with .Values.image }}
{{- if .digest }}{{ .repository }}@{{ .digest }}
{{- else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end }}
{{- end }}
{{- end }}

{{- define "helios.nodeImage" -}}
{{ .Values.nodeImage.repository }}:{{ .Values.nodeImage.tag | default .Chart.AppVersion }}
{{- end }}

{{- /* The watched namespaces, separated by commas; empty for all namespaces. */ -}}
{{- define "helios.namespaces" -}}
{{- if .Values.watchNamespaces }}{{ join "," .Values.watchNamespaces }}
{{- else if eq (default "cluster" .Values.rbac.scope) "namespace" }}{{ .Release.Namespace }}
{{- end }}
{{- end }}

{{- /* The operator's rights in the namespaces of clusters: each with its purpose. */ -}}
{{- define "helios.rules" -}}
# The spec of a cluster is read. The cluster of a drill is created, and deleted when the drill has ended.
- apiGroups: [heliosdb.io]
  resources: [heliosclusters]
  verbs: [get, list, watch, create, delete]
# The status of a cluster is written.
- apiGroups: [heliosdb.io]
  resources: [heliosclusters/status]
  verbs: [patch]
# The members' StatefulSet is created and changed; Kubernetes deletes it with its owner.
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch, create, patch]
# The members' configuration, identity and Services are created and changed; watched, so that they need not be polled.
- apiGroups: [""]
  resources: [configmaps, serviceaccounts, services]
  verbs: [get, list, watch, create, patch]
# Members are watched, labelled with their role, and deleted when they serve no client.
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch, patch, delete]
# A rollout evicts members as a drain does, within the disruption budget.
- apiGroups: [""]
  resources: [pods/eviction]
  verbs: [create]
# Volumes grow, and are deleted after the removal of their member.
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, list, watch, patch, delete]
# The members' certificate, the CA that signs it, and the clients' password are created, renewed and, after a user
# deleted one, created again. The operator deletes no Secret: Kubernetes deletes them with their owner.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch, create, update]
# The NetworkPolicy limits who can connect to the members; it is deleted when spec.networkPolicy.enabled is false.
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
# The disruption budget is deleted when a cluster is scaled in to one member.
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
# Backups are described by these resources; HeliosBackups are created by a schedule, and the oldest of it are deleted.
- apiGroups: [heliosdb.io]
  resources: [heliosbackupstores, heliosscheduledbackups]
  verbs: [get, list, watch]
- apiGroups: [heliosdb.io]
  resources: [heliosbackups]
  verbs: [get, list, watch, create, delete]
- apiGroups: [heliosdb.io]
  resources: [heliosbackupstores/status, heliosbackups/status, heliosscheduledbackups/status]
  verbs: [patch]
# Users of applications are described by HeliosClients. Their Secrets are in the namespaces of the applications, of those that
# are watched, under the right to Secrets above.
- apiGroups: [heliosdb.io]
  resources: [heliosclients]
  verbs: [get, list, watch]
- apiGroups: [heliosdb.io]
  resources: [heliosclients/status]
  verbs: [patch]
# The archiver is created, changed, and deleted when a cluster has no backups any more.
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
# A backup, a restore and the check of a drill are a Job each; Kubernetes deletes it with its owner, and the operator deletes the Job of a backup whose cluster was deleted.
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, delete]
# Events, for `kubectl describe`.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}

{{- /* Rights on cluster-scoped objects. An operator that is limited to namespaces has none of these: it does not select namespaces by their labels, does not see that
       a host is cordoned or gone, and instead of deleting a volume that it cannot keep it reports that and waits for an admin. */ -}}
{{- define "helios.clusterRules" -}}
# The labels of a namespace decide whether spec.clients.allow of a cluster selects it.
- apiGroups: [""]
  resources: [namespaces]
  verbs: [get]
# Nodes are watched: leadership is moved off cordoned ones, and members are replaced whose node is gone.
- apiGroups: [""]
  resources: [nodes]
  verbs: [get, list, watch]
# A volume that is replaced because it can no longer be used is kept for an admin (reclaim policy Retain).
- apiGroups: [""]
  resources: [persistentvolumes]
  verbs: [get, patch]
{{- end }}
