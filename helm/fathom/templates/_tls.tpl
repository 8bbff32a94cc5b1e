{{/* Encryption of Triton's gRPC (server.tls) and of the gateway's HTTP (gateway.tls). Each pod gets the files that it needs, so that no caller has the server's key. */}}

{{/* Files of a secret as a volume: (list name secret map), from keys to names of files. */}}
{{- define "fathom.secretFiles" -}}
- name: {{ first . }}
  secret:
    secretName: {{ index . 1 | quote }}
    items:
      {{- range $key, $path := last . }}
      - key: {{ $key | quote }}
        path: {{ $path }}
      {{- end }}
{{- end }}

{{/* Where such a volume lies in every container: (list name). */}}
{{- define "fathom.secretMount" -}}
- name: {{ first . }}
  mountPath: /etc/fathom/{{ first . }}
  readOnly: true
{{- end }}

{{/* Certificate and key of a kubernetes.io/tls secret as a volume: (list name secret). */}}
{{- define "fathom.pairFiles" -}}
{{ include "fathom.secretFiles" (list (first .) (last .) (dict "tls.crt" "tls.crt" "tls.key" "tls.key")) }}
{{- end }}

{{/* Volumes of the server; the volumes' names are what it mounts. */}}
{{- define "fathom.serverTlsVolumes" -}}
{{- with .Values.server.tls -}}
{{- if .secret -}}
{{ include "fathom.pairFiles" (list "tls" .secret) }}
{{- if .clients.ca.secret }}
{{ include "fathom.secretFiles" (list "client-ca" .clients.ca.secret (dict .clients.ca.key "ca.crt")) }}
{{- end }}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Volumes of whoever asks the server. */}}
{{- define "fathom.callerTlsVolumes" -}}
{{- with .Values.server.tls -}}
{{- if .secret -}}
{{ include "fathom.secretFiles" (list "server-ca" (.ca.secret | default .secret) (dict .ca.key "ca.crt")) }}
{{- if .clients.secret }}
{{ include "fathom.pairFiles" (list "client-tls" .clients.secret) }}
{{- end }}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Mounts of the volumes that a text holds: (list text). */}}
{{- define "fathom.secretMounts" -}}
{{- range first . | fromYamlArray }}
{{ include "fathom.secretMount" (list .name) }}
{{- end }}
{{- end }}

{{/* Flags of fathom-client, one a line. */}}
{{- define "fathom.clientTlsFlags" -}}
{{- with .Values.server.tls -}}
{{- if .secret -}}
- --tls-ca=/etc/fathom/server-ca/ca.crt
{{- with .serverName }}
- --tls-server-name={{ . }}
{{- end }}
{{- if .clients.secret }}
- --tls-certificate=/etc/fathom/client-tls/tls.crt
- --tls-key=/etc/fathom/client-tls/tls.key
{{- end }}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Flags of fathom-load, one a line. */}}
{{- define "fathom.loadTlsFlags" -}}
{{- with .Values.server.tls -}}
{{- if .secret -}}
- --tls-ca=/etc/fathom/server-ca/ca.crt
{{- with .serverName }}
- {{ printf "--set=target.tls.server_name=%q" . | quote }}
{{- end }}
{{- if .clients.secret }}
- --set=target.tls.certificate=/etc/fathom/client-tls/tls.crt
- --set=target.tls.key=/etc/fathom/client-tls/tls.key
{{- end }}
{{- end -}}
{{- end -}}
{{- end }}

{{/* The gateway's settings, as TOML. */}}
{{- define "fathom.gatewaySettings" -}}
# from gateway.settings
{{- range $name, $value := .Values.gateway.settings }}
{{ $name }} = {{ $value | toJson }}
{{- end }}
{{- with .Values.server.tls }}
{{- if .secret }}
# from server.tls
target_ca = "/etc/fathom/server-ca/ca.crt"
{{- with .serverName }}
target_server_name = {{ . | quote }}
{{- end }}
{{- if .clients.secret }}
target_cert = "/etc/fathom/client-tls/tls.crt"
target_key = "/etc/fathom/client-tls/tls.key"
{{- end }}
{{- end }}
{{- end }}
{{- if .Values.gateway.tls.secret }}
# from gateway.tls
tls_cert = "/etc/fathom/https/tls.crt"
tls_key = "/etc/fathom/https/tls.key"
{{- end }}
{{- end }}

{{/* Volumes of the gateway. */}}
{{- define "fathom.gatewayTlsVolumes" -}}
{{ include "fathom.callerTlsVolumes" . }}
{{- with .Values.gateway.tls.secret }}
{{ include "fathom.pairFiles" (list "https" .) }}
{{- end }}
{{- end }}

{{/* Where the gateway is asked within the cluster, and the name in its certificate. */}}
{{- define "fathom.gatewayHost" -}}
{{- printf "%s.%s.svc" (include "fathom.part" (list . "gateway")) .Release.Namespace -}}
{{- end }}

{{- define "fathom.gatewayName" -}}
{{- .Values.gateway.tls.serverName | default (include "fathom.gatewayHost" .) -}}
{{- end }}

{{/* Scheme of the gateway's probes. */}}
{{- define "fathom.gatewayScheme" -}}
{{- ternary "HTTPS" "HTTP" (not (empty .Values.gateway.tls.secret)) -}}
{{- end }}
