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

{{- /* The watched namespaces, separated by commas; nothing when it is all of them. */ -}}
{{- define "helios.namespaces" -}}
{{- if .Values.watchNamespaces }}{{ join "," .Values.watchNamespaces }}
{{- else if eq (default "cluster" .Values.rbac.scope) "namespace" }}{{ .Release.Namespace }}
{{- end }}
{{- end }}

{{- /* The operator's rights where clusters live: each with what it is for. */ -}}
{{- define "helios.rules" -}}
# What is asked for.
- apiGroups: [heliosdb.io]
  resources: [heliosclusters]
  verbs: [get, list, watch]
# What is reported.
- apiGroups: [heliosdb.io]
  resources: [heliosclusters/status]
  verbs: [patch]
# The members' StatefulSet; Kubernetes deletes it with its owner.
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch, create, patch]
# The members' configuration, identity and Services; watched, so that they need not be read again and again.
- apiGroups: [""]
  resources: [configmaps, serviceaccounts, services]
  verbs: [get, list, watch, create, patch]
# Members are watched, labelled with their role, and deleted when they serve nobody.
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch, patch, delete]
# A rolling change stops members the way a drain does, within the disruption budget.
- apiGroups: [""]
  resources: [pods/eviction]
  verbs: [create]
# Volumes grow, and go when their member was removed.
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, list, watch, patch, delete]
# The members' certificate, the authority that signs it, and the clients' password are made, renewed and, when a person
# deleted one, made again. No Secret is deleted: they go with their cluster.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch, create, update]
# Who may reach the members; it goes when spec.networkPolicy.enabled is false.
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
# The budget goes when a cluster shrinks to one member.
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
# What was done, for `kubectl describe`.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}

{{- /* Rights outside of any namespace. An operator that is limited to namespaces has none of these: it knows
       no host as cordoned or gone, and deletes no volume that it cannot keep, but says so and waits for a person. */ -}}
{{- define "helios.clusterRules" -}}
# Hosts that are cordoned or gone: leadership is moved off the first, members are replaced on the second.
- apiGroups: [""]
  resources: [nodes]
  verbs: [get, list, watch]
# A volume that is replaced because it cannot be used any more is kept for a person (reclaim policy Retain).
- apiGroups: [""]
  resources: [persistentvolumes]
  verbs: [get, patch]
{{- end }}
