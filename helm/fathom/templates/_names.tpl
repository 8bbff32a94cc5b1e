{{/* Names and labels. */}}

{{- define "fathom.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end }}

{{- define "fathom.base" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains (include "fathom.name" .) .Release.Name -}}
{{- .Release.Name -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "fathom.name" .) -}}
{{- end -}}
{{- end }}

{{/* A text of at most so many characters: (list text 52). One that is cut ends with eight digits of its hash, so that two stay two. */}}
{{- define "fathom.cut" -}}
{{- $text := first . -}}
{{- if gt (len $text) (last .) -}}
{{- printf "%s-%s" ($text | trunc (int (sub (last .) 9)) | trimSuffix "-") ($text | sha256sum | trunc 8) -}}
{{- else -}}
{{- $text -}}
{{- end -}}
{{- end }}

{{/* The name of a part, at most 52 characters, its own word whole: (list $ "server"). */}}
{{- define "fathom.part" -}}
{{- printf "%s-%s" (include "fathom.cut" (list (include "fathom.base" (first .)) (int (sub 51 (len (last .)))))) (last .) -}}
{{- end }}

{{/* What never changes of a part's labels, for selectors: (list $ "server"). */}}
{{- define "fathom.selector" -}}
app.kubernetes.io/name: {{ include "fathom.name" (first .) | quote }}
app.kubernetes.io/instance: {{ (first .).Release.Name | quote }}
app.kubernetes.io/component: {{ last . }}
{{- end }}

{{/* All labels of a part: (list $ "server"). */}}
{{- define "fathom.labels" -}}
{{- $ := first . -}}
{{ include "fathom.podLabels" . }}
helm.sh/chart: {{ printf "%s-%s" $.Chart.Name $.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Those of its pods: without the chart's version, which alone is no reason to load models anew. */}}
{{- define "fathom.podLabels" -}}
{{- $ := first . -}}
{{ include "fathom.selector" . }}
app.kubernetes.io/version: {{ $.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: fathom
app.kubernetes.io/managed-by: {{ $.Release.Service }}
{{- with $.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* An image's reference: (list $ image suffix); a digest goes before a tag, a tag before the chart's appVersion. */}}
{{- define "fathom.image" -}}
{{- $ := first . -}}
{{- $image := index . 1 -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image.repository (toString ($image.tag | default (printf "%s%s" $.Chart.AppVersion (last .)))) -}}
{{- end -}}
{{- end }}

{{- define "fathom.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "fathom.cut" (list (include "fathom.base" .) 52)) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end }}

{{/* What the headless service answers for: the address of every ready server. */}}
{{- define "fathom.target" -}}
{{- printf "%s.%s.svc:8001" (include "fathom.part" (list . "headless")) .Release.Namespace -}}
{{- end }}
