{{/* What the schema cannot say: values that do not go together, each refused with a sentence. */}}

{{- define "fathom.check" -}}
{{- $v := .Values -}}
{{- $bundle := include "fathom.bundle" . | fromJson -}}
{{- if hasKey $bundle "Error" -}}
{{- fail (printf "bundle is no TOML: %s" $bundle.Error) -}}
{{- end -}}
{{- $names := list -}}
{{- range (include "fathom.models" . | fromJson).models -}}
{{- if not (and .name .task) -}}
{{- fail (printf "bundle has a model without a name or a task (%s); give both" (toJson .)) -}}
{{- end -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- range $path, $own := dict "server.env" (list "HOME") "export.env" (list "HOME" "HF_HOME" "FATHOM_CACHE" "HF_TOKEN") "fetch.env" (list "RCLONE_CONFIG" "XDG_CACHE_HOME") -}}
{{- $seen := list -}}
{{- range (index $v (first (splitList "." $path))).env -}}
{{- if has .name $own -}}
{{- fail (printf "%s sets %s, which the chart sets itself; leave it out" $path .name) -}}
{{- end -}}
{{- if has .name $seen -}}
{{- fail (printf "%s sets %s twice; a server-side apply would refuse it" $path .name) -}}
{{- end -}}
{{- $seen = append $seen .name -}}
{{- end -}}
{{- end -}}
{{- range $path, $labels := dict "commonLabels" $v.commonLabels "server.podLabels" $v.server.podLabels "serviceMonitor.labels" $v.serviceMonitor.labels "prometheusRule.labels" $v.prometheusRule.labels "dashboards.labels" $v.dashboards.labels "dashboards.annotations" $v.dashboards.annotations "server.podAnnotations" $v.server.podAnnotations "gateway.podAnnotations" $v.gateway.podAnnotations -}}
{{- range $name, $_ := $labels -}}
{{- if or (hasPrefix "app.kubernetes.io/" $name) (hasPrefix "helm.sh/" $name) (hasPrefix "fathom/" $name) (eq $name "kubectl.kubernetes.io/default-container") -}}
{{- fail (printf "%s has %s, which the chart sets itself; choose another name" $path $name) -}}
{{- end -}}
{{- if and (ne $path "commonLabels") (not (hasSuffix "nnotations" $path)) (hasKey $v.commonLabels $name) -}}
{{- fail (printf "%s and commonLabels both have %s; keep one of them" $path $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $where := list "repository" "checkpoints" -}}
{{- $source := index $v $where -}}
{{- if and (eq $source.source "url") (not $source.url) -}}
{{- fail (printf "%s.source is url, but %s.url is empty; give s3://, gs:// or https://" $where $where) -}}
{{- end -}}
{{- if and (eq $source.source "existingClaim") (not $source.existingClaim.name) -}}
{{- fail (printf "%s.source is existingClaim, but %s.existingClaim.name is empty; name the PersistentVolumeClaim" $where $where) -}}
{{- end -}}
{{- if eq $source.source "image" -}}
{{- if not $source.image.reference -}}
{{- fail (printf "%s.source is image, but %s.image.reference is empty; name the image" $where $where) -}}
{{- end -}}
{{- if semverCompare "<1.31.0-0" $.Capabilities.KubeVersion.Version -}}
{{- fail (printf "%s.source is image, but this cluster is %s; volumes of images came with Kubernetes 1.31" $where $.Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and (eq $v.repository.source "export") (not $names) -}}
{{- fail "bundle describes no model; give at least one [[models]] table, or another repository.source" -}}
{{- end -}}
{{- if and (ne $v.checkpoints.source "none") (ne $v.repository.source "export") -}}
{{- fail (printf "checkpoints.source is %s, but repository.source is %s: nothing is exported; use checkpoints with repository.source export" $v.checkpoints.source $v.repository.source) -}}
{{- end -}}
{{- if and (eq $v.server.image.target "gpu") (eq (int $v.server.gpu.count) 0) -}}
{{- fail "server.image.target is gpu, but server.gpu.count is 0: Triton would start without a GPU; ask for at least one, or take the target cpu" -}}
{{- end -}}
{{- if and (gt (int $v.server.gpu.count) 0) (eq $v.server.image.target "cpu") (not $v.multiNode.enabled) -}}
{{- fail (printf "server.gpu.count is %d, but server.image.target is cpu, which cannot use a GPU; take the target gpu, or ask for none" (int $v.server.gpu.count)) -}}
{{- end -}}
{{- range $kind, $asked := $v.server.resources -}}
{{- range $name, $_ := $asked -}}
{{- if contains "/" $name -}}
{{- fail (printf "server.resources.%s names %s; ask for GPUs with server.gpu.count and server.gpu.resource, which the plan's build takes as well" $kind $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $stop := add $v.drain.preStopSeconds (include "fathom.drainSeconds" .) -}}
{{- if le (int (include "fathom.graceSeconds" .)) (int $stop) -}}
{{- fail (printf "drain.graceSeconds is %d, but a stop takes up to %d (preStopSeconds %d and a drain of %s): the kubelet would cut answers off; allow more, or leave it null" (int $v.drain.graceSeconds) $stop (int $v.drain.preStopSeconds) (include "fathom.drainSeconds" .)) -}}
{{- end -}}
{{- if $v.plan.models -}}
{{- if eq (int $v.server.gpu.count) 0 -}}
{{- fail "plan.models is given, but server.gpu.count is 0; a plan is built on the GPU that serves it" -}}
{{- end -}}
{{- if or (ne $v.repository.source "export") (eq $v.storage.kind "claim") -}}
{{- fail "plan.models needs a volume of each pod's own, since a plan is for its GPU alone; take repository.source export with storage.kind perPod (kept) or emptyDir" -}}
{{- end -}}
{{- range $v.plan.models -}}
{{- if not (has . $names) -}}
{{- fail (printf "plan.models names %s, which bundle does not have; it has: %s" . (join ", " $names)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if $v.multiNode.enabled -}}
{{- if not $v.multiNode.image -}}
{{- fail "multiNode.enabled is true, but multiNode.image is empty; name an image with Triton's vLLM backend, Ray and fathom-serve" -}}
{{- end -}}
{{- if eq (int $v.server.gpu.count) 0 -}}
{{- fail "multiNode.enabled is true, but server.gpu.count is 0; say how many GPUs each node has" -}}
{{- end -}}
{{- if include "fathom.perPod" . -}}
{{- fail "multiNode.enabled is true, but a LeaderWorkerSet keeps no volume of each pod's own; take storage.kind emptyDir or claim, or repository.source existingClaim or image" -}}
{{- end -}}
{{- end -}}
{{- if gt (int $v.autoscaling.minReplicas) (int $v.autoscaling.maxReplicas) -}}
{{- fail (printf "autoscaling.minReplicas is %d, but maxReplicas is %d; the least cannot be more than the most" (int $v.autoscaling.minReplicas) (int $v.autoscaling.maxReplicas)) -}}
{{- end -}}
{{- if and (eq $v.autoscaling.kind "hpa") (eq $v.autoscaling.metric "queueTime") -}}
{{- fail "autoscaling.metric queueTime is a ratio of two sums, and an HPA would take the mean of the pods' ratios; take kind keda, or the metric waitingRequests" -}}
{{- end -}}
{{- if and (eq $v.autoscaling.kind "keda") (not $v.autoscaling.prometheusUrl) -}}
{{- fail "autoscaling.kind is keda, but autoscaling.prometheusUrl is empty; give Prometheus's address, such as http://prometheus.monitoring.svc:9090" -}}
{{- end -}}
{{- if and $v.prometheusRule.enabled (not $v.serviceMonitor.enabled) -}}
{{- fail "prometheusRule.enabled is true, but serviceMonitor.enabled is false: its rules name the labels that a ServiceMonitor gives, and would see nothing" -}}
{{- end -}}
{{- range $part := list "server" "gateway" -}}
{{- $tls := (index $v $part).tls -}}
{{- $given := dict "serverName" $tls.serverName "ca.secret" $tls.ca.secret -}}
{{- if eq $part "server" -}}
{{- $_ := set $given "clients.ca.secret" $tls.clients.ca.secret -}}
{{- $_ := set $given "clients.secret" $tls.clients.secret -}}
{{- end -}}
{{- range $name, $value := $given -}}
{{- if and $value (not $tls.secret) -}}
{{- fail (printf "%s.tls.%s is given, but %s.tls.secret is empty: nothing is encrypted there; name the secret with certificate and key, or leave both empty" $part $name $part) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- with $v.server.tls.clients -}}
{{- if and .secret (not .ca.secret) -}}
{{- fail "server.tls.clients.secret is given, but server.tls.clients.ca.secret is empty: callers are asked for no certificate; name the authority that signs theirs, or leave both empty" -}}
{{- end -}}
{{- if and .ca.secret (not .secret) (or $v.gateway.enabled $v.tests.enabled $v.loadtest.enabled) -}}
{{- fail "server.tls.clients.ca.secret is given, but server.tls.clients.secret is empty: gateway, tests and load test would not be let in; name the secret with their certificate and key" -}}
{{- end -}}
{{- end -}}
{{- if and $v.gateway.tls.secret (not $v.gateway.enabled) -}}
{{- fail "gateway.tls.secret is given, but gateway.enabled is false: there is nothing to encrypt; leave it empty" -}}
{{- end -}}
{{- if and $v.gatewayApi.enabled (not (contains "BackendTLSPolicy" (toJson $v.extraObjects))) -}}
{{- $remedy := "add a BackendTLSPolicy for that service to extraObjects, or let nothing be routed there" -}}
{{- if and $v.server.tls.secret $v.gatewayApi.grpcHostnames -}}
{{- fail (printf "gatewayApi.grpcHostnames makes a GRPCRoute to Triton, whose gRPC server.tls.secret encrypts, and a route speaks in the clear by itself; %s" $remedy) -}}
{{- end -}}
{{- if $v.gateway.tls.secret -}}
{{- fail (printf "gatewayApi.enabled makes an HTTPRoute to the gateway, whose HTTP gateway.tls.secret encrypts, and a route speaks in the clear by itself; %s" $remedy) -}}
{{- end -}}
{{- end -}}
{{- if and $v.ingress.enabled (not $v.gateway.enabled) -}}
{{- fail "ingress.enabled is true, but gateway.enabled is false: there is nothing that it could lead to" -}}
{{- end -}}
{{- if $v.gatewayApi.enabled -}}
{{- if not $v.gatewayApi.parentRefs -}}
{{- fail "gatewayApi.enabled is true, but gatewayApi.parentRefs is empty; name the Gateway that the routes belong to" -}}
{{- end -}}
{{- if and (not $v.gateway.enabled) (not $v.gatewayApi.grpcHostnames) -}}
{{- fail "gatewayApi.enabled is true, but gateway.enabled is false and grpcHostnames is empty: there is no route to make" -}}
{{- end -}}
{{- end -}}
{{- end }}
