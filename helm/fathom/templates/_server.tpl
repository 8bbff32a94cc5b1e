{{/* The server's pod, as Deployment, StatefulSet and LeaderWorkerSet have it. */}}

{{- define "fathom.serverImage" -}}
{{- if .Values.multiNode.enabled -}}
{{- .Values.multiNode.image -}}
{{- else -}}
{{- include "fathom.image" (list . .Values.server.image (ternary "-gpu" "" (eq .Values.server.image.target "gpu"))) -}}
{{- end -}}
{{- end }}

{{/* Resources of the server, and of the plan that is built in its place: with the GPUs, as requests and limits. */}}
{{- define "fathom.serverResources" -}}
{{- $resources := deepCopy .Values.server.resources -}}
{{- with .Values.server.gpu -}}
{{- if .count -}}
{{- $gpu := dict .resource (int .count) -}}
{{- $_ := set $resources "limits" (merge (dict) $gpu (default dict $resources.limits)) -}}
{{- $_ := set $resources "requests" (merge (dict) $gpu (default dict $resources.requests)) -}}
{{- end -}}
{{- end -}}
{{ toYaml $resources }}
{{- end }}

{{/* The claim that each pod of a StatefulSet keeps. Its labels may never change, so it has the selector's alone. */}}
{{- define "fathom.perPod" -}}
{{- if and (include "fathom.fills" .) (eq .Values.storage.kind "perPod") -}}true{{- end -}}
{{- end }}

{{- define "fathom.serverMounts" -}}
- name: models
  {{- if include "fathom.fills" . }}
  mountPath: /models
  {{- else }}
  mountPath: {{ include "fathom.repositoryPath" . }}
  {{- if and (eq .Values.repository.source "existingClaim") .Values.repository.existingClaim.subPath }}
  subPath: {{ .Values.repository.existingClaim.subPath | quote }}
  {{- end }}
  {{- end }}
  readOnly: true
- name: tmp
  mountPath: /tmp
- name: shared-memory
  mountPath: /dev/shm
{{- if .Values.server.adminKeySecret.name }}
- name: admin-key
  mountPath: /etc/fathom/admin
  readOnly: true
{{- end }}
{{- include "fathom.secretMounts" (list (include "fathom.serverTlsVolumes" .)) }}
{{- end }}

{{- define "fathom.serverVolumes" -}}
{{- if eq .Values.repository.source "existingClaim" }}
- name: models
  persistentVolumeClaim:
    claimName: {{ .Values.repository.existingClaim.name | quote }}
    readOnly: true
{{- else if eq .Values.repository.source "image" }}
- name: models
  image:
    reference: {{ .Values.repository.image.reference | quote }}
    pullPolicy: {{ .Values.repository.image.pullPolicy }}
{{- else if eq .Values.storage.kind "claim" }}
- name: models
  persistentVolumeClaim:
    claimName: {{ include "fathom.modelsClaim" . | quote }}
{{- else if eq .Values.storage.kind "emptyDir" }}
- name: models
  emptyDir:
    sizeLimit: {{ .Values.storage.size | quote }}
{{- end }}
- name: tmp
  emptyDir: {}
- name: shared-memory
  emptyDir:
    medium: Memory
    sizeLimit: {{ .Values.server.sharedMemory | quote }}
{{- with .Values.server.adminKeySecret.name }}
- name: admin-key
  secret:
    secretName: {{ . | quote }}
{{- end }}
{{- with include "fathom.serverTlsVolumes" . }}
{{ . }}
{{- end }}
{{- if and (include "fathom.fills" .) (not (include "fathom.fillsByJob" .)) }}
{{ include "fathom.fillVolumes" . | trim }}
{{- end }}
{{- end }}

{{/* What must have happened before the server starts. */}}
{{- define "fathom.serverInitContainers" -}}
{{- if include "fathom.fillsByJob" . }}
- name: wait-for-models
  image: {{ include "fathom.image" (list . .Values.gateway.image "") | quote }}
  imagePullPolicy: {{ .Values.gateway.image.pullPolicy }}
  command:
    - sh
    - -c
    - until test -e /models/.filled-{{ include "fathom.fillHash" . }}; do echo "waiting for the Job that fills this volume with {{ include "fathom.fillHash" . }}"; sleep 10; done
  {{- include "fathom.containerSecurity" . | nindent 2 }}
  resources:
    requests: {cpu: 10m, memory: 32Mi}
    limits: {memory: 64Mi}
  volumeMounts:
    - name: models
      mountPath: /models
      readOnly: true
{{- else if include "fathom.fills" . }}
{{ include "fathom.fillContainers" . }}
{{- include "fathom.planContainers" . }}
{{- end }}
{{- end }}

{{/* fathom-serve and its arguments, one a line. */}}
{{- define "fathom.serveCommand" -}}
- fathom-serve
- {{ include "fathom.repositoryPath" . }}
- --host=0.0.0.0
- --http-port=8000
- --grpc-port=8001
- --metrics-port=8002
- --ready-timeout-s={{ .Values.server.readyTimeoutSeconds }}
- --drain-s={{ include "fathom.drainSeconds" . }}
- --cache-mb={{ .Values.server.cacheMb }}
{{- if .Values.server.adminKeySecret.name }}
- --admin-key-file=/etc/fathom/admin/{{ .Values.server.adminKeySecret.key }}
{{- end }}
{{- if .Values.server.tls.secret }}
- --tls-cert=/etc/fathom/tls/tls.crt
- --tls-key=/etc/fathom/tls/tls.key
{{- if .Values.server.tls.clients.ca.secret }}
- --tls-client-ca=/etc/fathom/client-ca/ca.crt
{{- end }}
{{- end }}
- --log-level={{ .Values.server.logLevel }}
- --log-format={{ .Values.server.logFormat }}
{{- with .Values.tracing.otlpEndpoint }}
- --otlp-endpoint={{ . }}
{{- end }}
{{- end }}

{{/* The container of the server: (list $ command). */}}
{{- define "fathom.serverContainer" -}}
{{- $ := first . -}}
{{- $patience := add 3 (ceil (divf $.Values.server.readyTimeoutSeconds 10)) -}}
- name: server
  image: {{ include "fathom.serverImage" $ | quote }}
  imagePullPolicy: {{ $.Values.server.image.pullPolicy }}
  command:
    {{- last . | nindent 4 }}
  env:
    - name: HOME
      value: /tmp
    {{- with $.Values.server.env }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  ports:
    - name: http
      containerPort: 8000
    - name: grpc
      containerPort: 8001
    - name: metrics
      containerPort: 8002
  # the launcher gives up first, and says what still loads
  startupProbe:
    httpGet: {path: /v2/health/ready, port: http}
    periodSeconds: 10
    timeoutSeconds: 5
    failureThreshold: {{ $patience }}
  readinessProbe:
    httpGet: {path: /v2/health/ready, port: http}
    periodSeconds: 5
    timeoutSeconds: 5
    failureThreshold: 2
  # as patient as the startup: the launcher starts Triton again by itself, and its models load again
  livenessProbe:
    httpGet: {path: /v2/health/live, port: http}
    periodSeconds: 10
    timeoutSeconds: 5
    failureThreshold: {{ $patience }}
  lifecycle:
    preStop:
      sleep:
        seconds: {{ $.Values.drain.preStopSeconds }}
  {{- include "fathom.containerSecurity" $ | nindent 2 }}
  resources:
    {{- include "fathom.serverResources" $ | nindent 4 }}
  volumeMounts:
    {{- include "fathom.serverMounts" $ | nindent 4 }}
{{- end }}

{{/* A pod of the server: (list $ component containers). */}}
{{- define "fathom.serverPod" -}}
{{- $ := first . -}}
{{- $component := index . 1 -}}
metadata:
  labels:
    {{- include "fathom.podLabels" (list $ $component) | nindent 4 }}
    {{- with $.Values.server.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    kubectl.kubernetes.io/default-container: server
    fathom/models: {{ include "fathom.fillHash" $ | quote }}
    {{- with $.Values.server.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  {{- include "fathom.podSecurity" $ | nindent 2 }}
  terminationGracePeriodSeconds: {{ include "fathom.graceSeconds" $ }}
  {{- with $.Values.server.priorityClassName }}
  priorityClassName: {{ . | quote }}
  {{- end }}
  {{- with $.Values.server.gpu.runtimeClassName }}
  runtimeClassName: {{ . | quote }}
  {{- end }}
  {{- with include "fathom.placement" $.Values.server }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- if and $.Values.server.topologySpreadConstraints (not $.Values.multiNode.enabled) }}
  topologySpreadConstraints:
    {{- range $.Values.server.topologySpreadConstraints }}
    {{- $own := dict "labelSelector" (dict "matchLabels" (include "fathom.selector" (list $ "server") | fromYaml)) }}
    - {{- toYaml (merge (dict) . $own) | nindent 6 }}
    {{- end }}
  {{- end }}
  {{- with include "fathom.serverInitContainers" $ | trim }}
  initContainers:
    {{- . | nindent 4 }}
  {{- end }}
  containers:
    {{- last . | nindent 4 }}
  volumes:
    {{- include "fathom.serverVolumes" $ | trim | nindent 4 }}
{{- end }}

