{{/* How the volume of models is filled: copied, built, and planned for a GPU. /models holds repository/, checkpoints/, cache/. */}}

{{/* Whether the chart fills a volume of its own. */}}
{{- define "fathom.fills" -}}
{{- if has .Values.repository.source (list "export" "url") -}}true{{- end -}}
{{- end }}

{{/* Whether one Job fills it for all pods. */}}
{{- define "fathom.fillsByJob" -}}
{{- if and (include "fathom.fills" .) (eq .Values.storage.kind "claim") -}}true{{- end -}}
{{- end }}

{{/* What is filled in, as eight digits: another bundle, source or image makes others. */}}
{{- define "fathom.fillHash" -}}
{{- list .Values.bundle .Values.repository .Values.checkpoints .Values.export .Values.fetch .Chart.AppVersion | toJson | sha256sum | trunc 8 -}}
{{- end }}

{{/* The folder that Triton reads. A copy from a url has a folder of its own, so that running pods keep theirs. */}}
{{- define "fathom.repositoryPath" -}}
{{- if eq .Values.repository.source "url" -}}
/models/{{ .Values.repository.url | sha256sum | trunc 8 }}/repository
{{- else -}}
/models/repository
{{- end -}}
{{- end }}

{{- define "fathom.modelsClaim" -}}
{{- .Values.storage.existingClaim | default (include "fathom.part" (list . "models")) -}}
{{- end }}

{{/* A url as rclone names it: (list $ url). */}}
{{- define "fathom.remote" -}}
{{- $ := first . -}}
{{- $url := last . -}}
{{- if hasPrefix "s3://" $url -}}
{{- with $.Values.fetch.s3Endpoint -}}
:s3,env_auth=true,provider=Other,endpoint={{ . | quote }}:{{ trimPrefix "s3://" $url }}
{{- else -}}
:s3,env_auth=true,provider=AWS:{{ trimPrefix "s3://" $url }}
{{- end -}}
{{- else if hasPrefix "gs://" $url -}}
:gcs,env_auth=true,bucket_policy_only=true:{{ trimPrefix "gs://" $url }}
{{- else -}}
:http,url={{ printf "%s/" (trimSuffix "/" $url) | quote }}:
{{- end -}}
{{- end }}

{{/* A container that copies a url: (list $ name url folder). */}}
{{- define "fathom.fetchContainer" -}}
{{- $ := first . -}}
- name: {{ index . 1 }}
  image: {{ include "fathom.image" (list $ $.Values.fetch.image "") | quote }}
  imagePullPolicy: {{ $.Values.fetch.image.pullPolicy }}
  command: [rclone, sync, --stats-one-line, --stats=30s, --verbose, {{ include "fathom.remote" (list $ (index . 2)) | quote }}, {{ index . 3 }}]
  env:
    - name: RCLONE_CONFIG
      value: /tmp/rclone.conf
    - name: XDG_CACHE_HOME
      value: /tmp
    {{- with $.Values.fetch.env }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with $.Values.fetch.credentialsSecret }}
  envFrom:
    - secretRef:
        name: {{ . | quote }}
  {{- end }}
  {{- include "fathom.containerSecurity" $ | nindent 2 }}
  resources:
    {{- toYaml $.Values.fetch.resources | nindent 4 }}
  volumeMounts:
    - name: models
      mountPath: /models
    - name: tmp
      mountPath: /tmp
{{- end }}

{{/* The environment of fathom-export: what it fetches stays on the volume. */}}
{{- define "fathom.exportEnvironment" -}}
- name: HOME
  value: /tmp
- name: HF_HOME
  value: /models/cache/hub
- name: FATHOM_CACHE
  value: /models/cache/fathom
{{- with .Values.export.tokenSecret }}
{{- if .name }}
- name: HF_TOKEN
  valueFrom:
    secretKeyRef:
      name: {{ .name | quote }}
      key: {{ .key | quote }}
{{- end }}
{{- end }}
{{- with .Values.export.env }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Mounts of fathom-export. */}}
{{- define "fathom.exportMounts" -}}
- name: models
  mountPath: /models
- name: tmp
  mountPath: /tmp
- name: bundle
  mountPath: /etc/fathom/bundle
  readOnly: true
{{- with .Values.checkpoints }}
{{- if eq .source "url" }}
- name: models
  mountPath: /checkpoints
  subPath: checkpoints
  readOnly: true
{{- else if ne .source "none" }}
- name: checkpoints
  mountPath: /checkpoints
  {{- if and (eq .source "existingClaim") .existingClaim.subPath }}
  subPath: {{ .existingClaim.subPath | quote }}
  {{- end }}
  readOnly: true
{{- end }}
{{- end }}
{{- end }}

{{/* The containers that fill /models, in their order. */}}
{{- define "fathom.fillContainers" -}}
{{- if eq .Values.repository.source "url" }}
{{ include "fathom.fetchContainer" (list . "fetch-repository" .Values.repository.url (include "fathom.repositoryPath" .)) }}
{{- else }}
{{- if eq .Values.checkpoints.source "url" }}
{{ include "fathom.fetchContainer" (list . "fetch-checkpoints" .Values.checkpoints.url "/models/checkpoints") }}
{{- end }}
- name: export
  image: {{ include "fathom.image" (list . .Values.export.image "") | quote }}
  imagePullPolicy: {{ .Values.export.image.pullPolicy }}
  command:
    - fathom-export
    - /etc/fathom/bundle/bundle.toml
    - --repository={{ include "fathom.repositoryPath" . }}
    {{- with .Values.export.acceptQuality }}
    - {{ printf "--accept-quality=%s" . | quote }}
    {{- end }}
  env:
    {{- include "fathom.exportEnvironment" . | nindent 4 }}
  {{- include "fathom.containerSecurity" . | nindent 2 }}
  resources:
    {{- toYaml .Values.export.resources | nindent 4 }}
  volumeMounts:
    {{- include "fathom.exportMounts" . | nindent 4 }}
{{- end }}
{{- end }}

{{/* The containers that build plans; each has the GPU to itself while it does. */}}
{{- define "fathom.planContainers" -}}
{{- range $number, $model := .Values.plan.models }}
- name: plan-{{ $number }}
  image: {{ include "fathom.image" (list $ $.Values.plan.image "-plan") | quote }}
  imagePullPolicy: {{ $.Values.plan.image.pullPolicy }}
  command:
    - fathom-export
    - plan
    - {{ $model | quote }}
    - --repository={{ include "fathom.repositoryPath" $ }}
    {{- with $.Values.plan.precision }}
    - --precision={{ . }}
    {{- end }}
    {{- if not (kindIs "invalid" $.Values.plan.optimizationLevel) }}
    - --optimization-level={{ $.Values.plan.optimizationLevel }}
    {{- end }}
  env:
    {{- include "fathom.exportEnvironment" $ | nindent 4 }}
  {{- include "fathom.containerSecurity" $ | nindent 2 }}
  resources:
    {{- include "fathom.serverResources" $ | nindent 4 }}
  volumeMounts:
    {{- include "fathom.exportMounts" $ | nindent 4 }}
{{- end }}
{{- end }}

{{/* The volumes that these containers use, models and tmp apart. */}}
{{- define "fathom.fillVolumes" -}}
{{- if eq .Values.repository.source "export" }}
- name: bundle
  configMap:
    name: {{ include "fathom.part" (list . "bundle") }}
{{- end }}
{{- with .Values.checkpoints }}
{{- if eq .source "existingClaim" }}
- name: checkpoints
  persistentVolumeClaim:
    claimName: {{ .existingClaim.name | quote }}
    readOnly: true
{{- else if eq .source "image" }}
- name: checkpoints
  image:
    reference: {{ .image.reference | quote }}
    pullPolicy: {{ .image.pullPolicy }}
{{- end }}
{{- end }}
{{- end }}
