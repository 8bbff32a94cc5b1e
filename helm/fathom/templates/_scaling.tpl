{{/* What is scaled, as a scaleTargetRef. */}}
{{- define "fathom.scaleTarget" -}}
{{- if .Values.multiNode.enabled -}}
apiVersion: leaderworkerset.x-k8s.io/v1
kind: LeaderWorkerSet
name: {{ include "fathom.part" (list . "group") }}
{{- else -}}
apiVersion: apps/v1
kind: {{ ternary "StatefulSet" "Deployment" (eq (include "fathom.perPod" .) "true") }}
name: {{ include "fathom.part" (list . "server") }}
{{- end -}}
{{- end }}

{{/* The series of this release's servers, as ServiceMonitor labels them. */}}
{{- define "fathom.series" -}}
{{- printf "{%s}" (include "fathom.matchers" (list . "headless")) -}}
{{- end }}

{{/* Matchers of the series of a service, as ServiceMonitor labels them: (list $ "headless"). */}}
{{- define "fathom.matchers" -}}
{{- printf "namespace=%q,service=%q" (first .).Release.Namespace (include "fathom.part" .) -}}
{{- end }}
