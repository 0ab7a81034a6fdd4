{{/* What a service is, whatever the values: its port, whom it calls, which keys it holds. */}}
{{- define "junctor.facts" -}}
access-control: {port: 50051, peers: [], keys: [service-token, admin-key], store: true}
model-registry: {port: 50052, peers: [access-control], keys: [service-token], store: true}
provider-registry: {port: 50053, peers: [access-control, model-registry], keys: [service-token, secret-key], store: true}
inference-router: {port: 50054, peers: [access-control, model-registry, provider-registry], keys: [service-token, secret-key], router: true}
gateway: {port: 8080, peers: [access-control, model-registry, provider-registry, inference-router], keys: [service-token], edge: true}
{{- end }}

{{- define "junctor.labels" -}}
app.kubernetes.io/name: junctor
app.kubernetes.io/component: {{ .name }}
app.kubernetes.io/part-of: junctor
{{- end }}

{{- define "junctor.selector" -}}
app.kubernetes.io/name: junctor
app.kubernetes.io/component: {{ .name }}
{{- end }}

{{/* Metadata of an object of the release: {root, name}. */}}
{{- define "junctor.metadata" -}}
name: junctor-{{ .name }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "junctor.labels" . | nindent 2 }}
  app.kubernetes.io/managed-by: {{ .root.Release.Service }}
  helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}

{{- define "junctor.image" -}}
{{ .service.image.repository | default .root.Values.image.repository }}:{{ .service.image.tag | default .root.Values.image.tag | default .root.Chart.AppVersion }}
{{- end }}

{{/* The longest drain: of calls where calls are, of writes elsewhere. */}}
{{- define "junctor.drain" -}}
{{ if .fact.store }}{{ .root.Values.registryDrainSeconds }}{{ else }}{{ add .root.Values.streamSeconds 5 }}{{ end }}
{{- end }}

{{- define "junctor.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "junctor.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "junctor.databaseUrl" -}}
- name: JUNCTOR_DATABASE_URL
  valueFrom:
    secretKeyRef: {name: {{ .service.database.secret }}, key: {{ .service.database.key }}}
{{- end }}

{{/* The settings of a service as variables: what follows from the facts, then those of all, then its own. */}}
{{- define "junctor.settings" -}}
{{- $facts := include "junctor.facts" . | fromYaml }}
{{- $tls := .root.Values.tls.enabled }}
{{- $made := dict "JUNCTOR_AUTH" "on" "JUNCTOR_LOG_FORMAT" "json" "JUNCTOR_DRAIN_TIMEOUT" (include "junctor.drain" .) "JUNCTOR_INSECURE" (ternary "false" "true" $tls) }}
{{- range .fact.peers }}
{{- $_ := set $made (printf "JUNCTOR_%s" (. | upper | replace "-" "_")) (printf "dns:///junctor-%s:%v" . (ternary 50060 (get $facts .).port $tls)) }}
{{- end }}
{{- if .fact.router }}
{{- $_ := set $made "JUNCTOR_ROUTER_PEERS" (printf "dns:///junctor-inference-router:%v" (ternary 50060 .fact.port $tls)) }}
{{- end }}
{{- range .fact.keys }}
{{- $_ := set $made (printf "JUNCTOR_%s_FILE" (. | upper | replace "-" "_")) (printf "/run/secrets/junctor/%s" (. | replace "-" ".")) }}
{{- end }}
{{- if not .fact.store }}{{ $_ := set $made "JUNCTOR_TOTAL_TIMEOUT" (toString .root.Values.streamSeconds) }}{{ end }}
{{- if not .fact.edge }}{{ $_ := set $made "JUNCTOR_GRPC_MAX_CONNECTION_AGE" "300" }}{{ end }}
{{- if $tls }}
{{- $_ := set $made "JUNCTOR_TLS_CERT_FILE" "/run/secrets/tls/tls.crt" }}
{{- $_ := set $made "JUNCTOR_TLS_KEY_FILE" "/run/secrets/tls/tls.key" }}
{{- if .fact.peers }}
{{- $_ := set $made "JUNCTOR_PEER_CA_FILE" "/run/secrets/tls/ca.crt" }}
{{- $_ := set $made "JUNCTOR_PEER_CERT_FILE" "/run/secrets/tls/tls.crt" }}
{{- $_ := set $made "JUNCTOR_PEER_KEY_FILE" "/run/secrets/tls/tls.key" }}
{{- end }}
{{- if not .fact.edge }}
{{- $_ := set $made "JUNCTOR_PEER_CLIENT_CA_FILE" "/run/secrets/tls/ca.crt" }}
{{- $_ := set $made "JUNCTOR_PEER_PORT" "50060" }}
{{- end }}
{{- end }}
{{- range $name, $value := mergeOverwrite $made (deepCopy .root.Values.settings) (deepCopy .service.settings) }}
{{ $name }}: {{ toString $value | quote }}
{{- end }}
{{- end }}
