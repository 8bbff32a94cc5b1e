{{/* What all pods and containers have in common. */}}

{{- define "fathom.podSecurity" -}}
serviceAccountName: {{ include "fathom.serviceAccount" . | quote }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  {{- with .Values.podSecurity.runAsUser }}
  runAsUser: {{ . }}
  runAsGroup: {{ . }}
  {{- end }}
  {{- with .Values.podSecurity.fsGroup }}
  fsGroup: {{ . }}
  fsGroupChangePolicy: OnRootMismatch
  {{- end }}
  seccompProfile:
    type: RuntimeDefault
{{- end }}

{{- define "fathom.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
terminationMessagePolicy: FallbackToLogsOnError
{{- end }}

{{/* Placement of pods, from the values of a part. */}}
{{- define "fathom.placement" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The bundle as a map; where it is no TOML, with the key Error alone. */}}
{{- define "fathom.bundle" -}}
{{- .Values.bundle | fromToml | toJson -}}
{{- end }}

{{/* The tables of its models, as a list of maps under the key models. */}}
{{- define "fathom.models" -}}
{{- $models := list -}}
{{- $given := (include "fathom.bundle" . | fromJson).models -}}
{{- if kindIs "slice" $given -}}
{{- range $given -}}
{{- if kindIs "map" . -}}
{{- $models = append $models . -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- dict "models" $models | toJson -}}
{{- end }}

{{/* Seconds for running answers at a stop. 2048 is fathom-export's own max_context. */}}
{{- define "fathom.drainSeconds" -}}
{{- $longest := .Values.drain.maxTokens | int -}}
{{- if not $longest -}}
{{- range (include "fathom.models" . | fromJson).models -}}
{{- if eq (toString .task) "generate" -}}
{{- $longest = max $longest (int ((default dict .limits).max_context | default 2048)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- max 30 (add 5 (ceil (divf (mulf $longest .Values.drain.interTokenLatencyMs) 1000))) -}}
{{- end }}

{{/* Seconds until the kubelet kills. */}}
{{- define "fathom.graceSeconds" -}}
{{- .Values.drain.graceSeconds | default (add .Values.drain.preStopSeconds (include "fathom.drainSeconds" .) 10) -}}
{{- end }}

{{/* The first model of a task in the bundle: (list $ "generate"). */}}
{{- define "fathom.firstModel" -}}
{{- $task := last . -}}
{{- $name := "" -}}
{{- range (include "fathom.models" (first .) | fromJson).models -}}
{{- if and (eq (toString .task) $task) (not $name) -}}
{{- $name = .name -}}
{{- end -}}
{{- end -}}
{{- $name -}}
{{- end }}
