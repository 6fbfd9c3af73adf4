{{- /*
Named templates for a pod template. Their argument is a dictionary with the keys of values.yaml; all but client have a default:

  initContainers:
    {{- include "helios.sidecar" .Values.sidecar | nindent 8 }}

The container and the volume are those that the webhook of helios-operator injects.
*/ -}}

{{- /* Item of initContainers. It is the first one, so that all others can use it. */ -}}
{{- define "helios.sidecar" -}}
{{- $settings := include "helios.sidecar.settings" . | fromJson -}}
- name: helios-sidecar
  image: {{ .image | default "heliosd:0.1.0" | quote }}
  # A native sidecar: it starts before the application and stops after it.
  restartPolicy: Always
  args:
    - sidecar
    - --secret-dir=/etc/helios-sidecar
    - --listen=127.0.0.1:{{ $settings.port }},[::1]:{{ $settings.port }}
    - --metrics-listen=0.0.0.0:9121
    {{- range $settings.flags }}
    - {{ . }}
    {{- end }}
  ports:
    - name: helios-metrics
      containerPort: 9121
  startupProbe:
    httpGet:
      path: /readyz
      port: helios-metrics
    periodSeconds: 1
    failureThreshold: 120
  livenessProbe:
    httpGet:
      path: /livez
      port: helios-metrics
  resources:
    requests:
      cpu: 10m
      memory: {{ $settings.requested }}
    limits:
      memory: {{ $settings.limit }}
  securityContext:
    allowPrivilegeEscalation: false
    capabilities:
      drop: [ALL]
    readOnlyRootFilesystem: true
    runAsNonRoot: true
    seccompProfile:
      type: RuntimeDefault
  volumeMounts:
    - name: helios-sidecar
      mountPath: /etc/helios-sidecar
      readOnly: true
{{- end }}

{{- /* Item of volumes: the Secret of the HeliosClient. A pod waits until members accept its password. */ -}}
{{- define "helios.sidecar.volume" -}}
{{- $settings := include "helios.sidecar.settings" . | fromJson -}}
- name: helios-sidecar
  projected:
    sources:
      - secret:
          name: {{ $settings.client }}-helios
          items:
            {{- range list "uri" "user" "password" }}
            - key: {{ . }}
              path: {{ . }}
            {{- end }}
      - secret:
          name: {{ $settings.client }}-helios
          optional: true
          items:
            {{- range list "ca.crt" "follow" "tls.crt" "tls.key" }}
            - key: {{ . }}
              path: {{ . }}
            {{- end }}
{{- end }}

{{- /* Item of env of a container of the application. */ -}}
{{- define "helios.sidecar.env" -}}
{{- $settings := include "helios.sidecar.settings" . | fromJson -}}
- name: HELIOS_URL
  value: redis://localhost:{{ $settings.port }}
{{- end }}

{{- /* Label of the pod, by which `kubectl get pods` and the PodMonitor of helios-operator select it. The webhook leaves a pod that has a sidecar as it is. */ -}}
{{- define "helios.sidecar.labels" -}}
{{- $settings := include "helios.sidecar.settings" . | fromJson -}}
heliosdb.io/inject: {{ $settings.client | quote }}
{{- end }}

{{- /* Checked settings, as JSON whose values are strings. The rules are those of spec of a HeliosClient. */ -}}
{{- define "helios.sidecar.settings" -}}
{{- $client := .client | default "" | toString }}
{{- if not (regexMatch "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$" $client) }}
{{- fail (printf "helios-sidecar: client: %q is not the name of a HeliosClient; write the name of one in the namespace of the pods" $client) }}
{{- end }}
{{- $port := .port | default 6379 | int }}
{{- if or (lt $port 1) (gt $port 65535) (eq $port 9121) }}
{{- fail (printf "helios-sidecar: port: %d: write another one, as 6379" $port) }}
{{- end }}
{{- $mode := .mode | default "Proxy" }}
{{- if not (has $mode (list "Proxy" "Replica")) }}
{{- fail (printf "helios-sidecar: mode: %q: write Proxy or Replica" $mode) }}
{{- end }}
{{- $memory := .memory | default "64Mi" | toString }}
{{- $mib := 0 }}
{{- if regexMatch "^[1-9][0-9]{0,4}(Mi|Gi)$" $memory }}
{{- $mib = mul (regexFind "^[0-9]+" $memory | int64) (ternary 1024 1 (hasSuffix "Gi" $memory)) }}
{{- end }}
{{- if or (lt $mib 8) (gt $mib 65536) }}
{{- fail "helios-sidecar: memory: write a number with Mi or Gi, from 8Mi to 64Gi, as 256Mi" }}
{{- end }}
{{- $staleness := .maxStaleness | default "1s" | toString }}
{{- $ms := 0 }}
{{- if regexMatch "^[1-9][0-9]{0,5}(ms|s)$" $staleness }}
{{- $ms = mul (regexFind "^[0-9]+" $staleness | int64) (ternary 1 1000 (hasSuffix "ms" $staleness)) }}
{{- end }}
{{- if or (lt $ms 100) (gt $ms 600000) }}
{{- fail "helios-sidecar: maxStaleness: write a time in ms or s, from 100ms to 600s, as 500ms" }}
{{- end }}
{{- $reads := .reads | default "Session" }}
{{- if not (has $reads (list "Session" "Bounded" "Linearizable" "Any")) }}
{{- fail (printf "helios-sidecar: reads: %q: write Session, Bounded, Linearizable or Any" $reads) }}
{{- end }}
{{- $offline := .offline | default "Refuse" }}
{{- if not (has $offline (list "Refuse" "ServeStale")) }}
{{- fail (printf "helios-sidecar: offline: %q: write Refuse or ServeStale" $offline) }}
{{- end }}
{{- $settings := dict "client" $client "port" (toString $port) "flags" list "requested" "32Mi" "limit" "96Mi" }}
{{- if eq $mode "Replica" }}
{{- $bytes := printf "--replica-memory-bytes=%d" (mul $mib 1048576) }}
{{- $flags := list "--mode=replica" $bytes (printf "--max-staleness-ms=%d" $ms) }}
{{- if ne $reads "Session" }}
{{- $flags = append $flags (printf "--reads=%s" (lower $reads)) }}
{{- end }}
{{- if eq $offline "ServeStale" }}
{{- $flags = append $flags "--offline=serve-stale" }}
{{- end }}
{{- $_ := set $settings "flags" $flags }}
{{- $_ := set $settings "requested" (printf "%dMi" (add 32 $mib)) }}
{{- $_ := set $settings "limit" (printf "%dMi" (add 128 $mib (div (add $mib 3) 4))) }}
{{- end }}
{{- toJson $settings }}
{{- end }}
