{{- define "helios.name" -}}
{{ default .Release.Name .Values.nameOverride }}
{{- end }}

{{- define "helios.labels" -}}
app.kubernetes.io/name: heliosdb
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: heliosdb
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{- end }}
