{{/* The name of everything in a release: the release's, unless it says touchline already. */}}
{{- define "touchline.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Name of one part: (list $ "server"). */}}
{{- define "touchline.name" -}}
{{- printf "%s-%s" (include "touchline.fullname" (index . 0)) (index . 1) -}}
{{- end -}}

{{/* What a selector looks for. It can never change, so nothing of a version is in it: (list $ "server"). */}}
{{- define "touchline.selectorLabels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ default $root.Chart.Name $root.Values.nameOverride | quote }}
app.kubernetes.io/instance: {{ $root.Release.Name | quote }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* Labels of a resource: (list $ "server"). */}}
{{- define "touchline.labels" -}}
{{- $root := index . 0 -}}
{{ include "touchline.selectorLabels" . }}
app.kubernetes.io/part-of: touchline
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63 | quote }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Image of one kind: (list $ "server"). */}}
{{- define "touchline.image" -}}
{{- $image := (index . 0).Values.image -}}
{{- $kind := index . 1 -}}
{{- $repository := get $image (printf "%sRepository" $kind) -}}
{{- $digest := get $image (printf "%sDigest" $kind) -}}
{{- if $image.registry }}{{ trimSuffix "/" $image.registry }}/{{ end }}{{ $repository -}}
{{- if $digest }}@{{ $digest }}{{ else }}:{{ default (index . 0).Chart.AppVersion $image.tag }}{{ end -}}
{{- end -}}

{{/* Service account of a part: (list $ "server"). */}}
{{- define "touchline.serviceAccountName" -}}
{{- $part := get (index . 0).Values (index . 1) -}}
{{- default (include "touchline.name" .) $part.serviceAccountName -}}
{{- end -}}

{{/* Every address of a pod, at a port: (list $ 50051). */}}
{{- define "touchline.listen" -}}
{{- if (index . 0).Values.ipv6 }}[::]{{ else }}0.0.0.0{{ end }}:{{ index . 1 -}}
{{- end -}}

{{/* The pod's own address, as a URL has it. */}}
{{- define "touchline.podHost" -}}
{{- if .Values.ipv6 }}[$(POD_IP)]{{ else }}$(POD_IP){{ end -}}
{{- end -}}

{{/* Whether callers have to present a token: "true" or nothing. */}}
{{- define "touchline.hasTokens" -}}
{{- if or .Values.auth.jwks .Values.auth.jwksSecret }}true{{ end -}}
{{- end -}}

{{/* Whether callers are known at all, by token or certificate: "true" or nothing. */}}
{{- define "touchline.knowsCallers" -}}
{{- if or (include "touchline.hasTokens" .) .Values.tls.clientCaSecret }}true{{ end -}}
{{- end -}}

{{/* The part that holds fans' connections in this release: gateway, push, or nothing. */}}
{{- define "touchline.front" -}}
{{- if .Values.gateway.enabled }}gateway{{ else if eq .Values.push.connections "local" }}push{{ end -}}
{{- end -}}

{{/* The server as applications call it. */}}
{{- define "touchline.serverUrl" -}}
{{- if .Values.tls.serverSecret }}https{{ else }}http{{ end }}://{{ include "touchline.name" (list . "server") }}:50051
{{- end -}}

{{/* The server as whoever pushes calls it: each consumer's replica. The short name is found at the first
question to the cluster's DNS, a whole one at the fourth. */}}
{{- define "touchline.serverHeadlessUrl" -}}
{{- if .Values.tls.serverSecret }}https{{ else }}http{{ end }}://{{ include "touchline.name" (list . "server") }}-headless:50051
{{- end -}}

{{/* Seconds until a pod that ends is killed: (list $ "server"). A local front is drained after the leader,
each within the same time. */}}
{{- define "touchline.ending" -}}
{{- $part := get (index . 0).Values (index . 1) -}}
{{- add $part.preStopSeconds (mul (ternary 2 1 (eq (index . 1) "push")) $part.drainSeconds) -}}
{{- end -}}
{{- define "touchline.grace" -}}
{{- $part := get (index . 0).Values (index . 1) -}}
{{- if kindIs "invalid" $part.terminationGracePeriodSeconds -}}
{{- add (include "touchline.ending" . | int) 15 -}}
{{- else -}}
{{- $part.terminationGracePeriodSeconds -}}
{{- end -}}
{{- end -}}

{{/* Flags of a map in camelCase, as arguments: (dict "flags" MAP "prefix" "auth-"). Lists are joined by commas,
apart from those flags that are repeated; a switch has no value. */}}
{{- define "touchline.flags" -}}
{{- $prefix := default "" .prefix -}}
{{- range $key, $value := .flags }}
{{- $flag := printf "--%s%s" $prefix (kebabcase $key) }}
{{- if and (kindIs "slice" $value) (has $key (list "filterValue" "promotionValue")) }}
{{- range $value }}
- {{ printf "%s=%s" $flag . | quote }}
{{- end }}
{{- else if kindIs "slice" $value }}
- {{ printf "%s=%s" $flag (join "," $value) | quote }}
{{- else if and (kindIs "bool" $value) (ne $key "followUp") }}
{{- if $value }}
- {{ $flag | quote }}
{{- end }}
{{- else if kindIs "float64" $value }}
- {{ printf "%s=%d" $flag (int64 $value) | quote }}
{{- else }}
- {{ printf "%s=%v" $flag $value | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Who may call, as arguments. */}}
{{- define "touchline.authArgs" -}}
{{- if .Values.insecure }}
- "--insecure"
{{- end }}
{{- if include "touchline.hasTokens" . }}
- {{ printf "--auth-jwks=%s" (default (printf "/etc/touchline/jwks/%s" .Values.auth.jwksSecretKey) .Values.auth.jwks) | quote }}
- {{ printf "--auth-issuer=%s" (join "," .Values.auth.issuer) | quote }}
{{- if .Values.auth.anyAudience }}
- "--auth-any-audience"
{{- else }}
- {{ printf "--auth-audience=%s" (join "," .Values.auth.audience) | quote }}
{{- end }}
{{- end }}
{{- include "touchline.flags" (dict "flags" .Values.auth.flags "prefix" "auth-") }}
{{- end -}}

{{/* TLS of a gRPC port, as arguments: (list $ "server"). */}}
{{- define "touchline.tlsArgs" -}}
{{- $tls := (index . 0).Values.tls -}}
{{- if get $tls (printf "%sSecret" (index . 1)) }}
- "--tls-certificate=/etc/touchline/tls/tls.crt"
- "--tls-key=/etc/touchline/tls/tls.key"
{{- if $tls.clientCaSecret }}
- "--tls-client-ca=/etc/touchline/client-ca/ca.crt"
{{- with $tls.clientScopes }}
- {{ printf "--tls-client-scopes=%s" (join "," .) | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* What a process presents when it calls, as arguments: (list $ "server"). */}}
{{- define "touchline.callerArgs" -}}
{{- $root := index . 0 -}}
{{- $part := get $root.Values (index . 1) -}}
{{- if $part.tokenSecret }}
- "--token-file=/etc/touchline/token/token"
{{- end }}
{{- if $root.Values.tls.caSecret }}
- "--ca-file=/etc/touchline/ca/ca.crt"
{{- end }}
{{- if $root.Values.tls.callerSecret }}
- "--client-certificate=/etc/touchline/caller/tls.crt"
- "--client-key=/etc/touchline/caller/tls.key"
{{- end }}
{{- if and $root.Values.tls.pushSecret (ne (index . 1) "test") }}
- {{ printf "--tls-name=%s" (default (printf "%s-headless" (include "touchline.name" (list $root "push"))) $root.Values.tls.pushName) | quote }}
{{- end }}
{{- end -}}

{{/* The tables and where they are, as arguments. */}}
{{- define "touchline.storeArgs" -}}
{{- $store := .Values.store -}}
{{- with .Values.aws.region }}
- {{ printf "--region=%s" . | quote }}
{{- end }}
{{- if eq $store.kind "embedded" }}
- {{ printf "--dynamodb-endpoint=http://%s:8000" (include "touchline.name" (list . "store")) | quote }}
{{- else if $store.endpoint }}
- {{ printf "--dynamodb-endpoint=%s" $store.endpoint | quote }}
{{- end }}
- {{ printf "--event-table=%s" $store.eventTable | quote }}
- {{ printf "--session-table=%s" $store.sessionTable | quote }}
- {{ printf "--item-table=%s" $store.itemTable | quote }}
- {{ printf "--lease-table=%s" $store.leaseTable | quote }}
{{- end -}}

{{/* Log and traces, as arguments. */}}
{{- define "touchline.telemetryArgs" -}}
- {{ printf "--log=%s" .Values.log.filter | quote }}
- {{ printf "--log-format=%s" .Values.log.format | quote }}
{{- if .Values.tracing.endpoint }}
- {{ printf "--otlp-endpoint=%s" .Values.tracing.endpoint | quote }}
- {{ printf "--trace-sample=%v" .Values.tracing.sample | quote }}
{{- end }}
{{- end -}}

{{/* A front for fans, as arguments. */}}
{{- define "touchline.fansArgs" -}}
{{- $fans := .Values.fans -}}
- {{ printf "--fans-listen=%s" (include "touchline.listen" (list . 8081)) | quote }}
- {{ printf "--stage=%s" $fans.stage | quote }}
- {{ printf "--fan-origins=%s" (join "," $fans.origins) | quote }}
{{- if $fans.tlsSecret }}
- "--fans-tls-certificate=/etc/touchline/fans-tls/tls.crt"
- "--fans-tls-key=/etc/touchline/fans-tls/tls.key"
{{- end }}
{{- if $fans.proxyProtocol }}
- "--proxy-protocol"
{{- end }}
- {{ printf "--forwarded-hops=%d" (int $fans.forwardedHops) | quote }}
{{- end -}}

{{/* Secrets and files of a part, by name in the pod: (list $ "server"), as JSON of {NAME: {"secret"|"configMap": …}}. */}}
{{- define "touchline.files" -}}
{{- $root := index . 0 -}}
{{- $kind := index . 1 -}}
{{- $part := get $root.Values $kind -}}
{{- $files := dict -}}
{{- $isService := has $kind (list "server" "push" "gateway") -}}
{{- if and $isService $root.Values.auth.jwksSecret (not $root.Values.auth.jwks) -}}
{{- $_ := set $files "jwks" (dict "secret" (dict "secretName" $root.Values.auth.jwksSecret)) -}}
{{- end -}}
{{- if has $kind (list "server" "push") -}}
{{- with get $root.Values.tls (printf "%sSecret" $kind) -}}
{{- $_ := set $files "tls" (dict "secret" (dict "secretName" .)) -}}
{{- if $root.Values.tls.clientCaSecret -}}
{{- $_ := set $files "client-ca" (dict "secret" (dict "secretName" $root.Values.tls.clientCaSecret)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- with $part.tokenSecret -}}
{{- $_ := set $files "token" (dict "secret" (dict "secretName" .)) -}}
{{- end -}}
{{- with $root.Values.tls.caSecret -}}
{{- $_ := set $files "ca" (dict "secret" (dict "secretName" .)) -}}
{{- end -}}
{{- with $root.Values.tls.callerSecret -}}
{{- $_ := set $files "caller" (dict "secret" (dict "secretName" .)) -}}
{{- end -}}
{{- if and (eq $kind (include "touchline.front" $root)) $root.Values.fans.tlsSecret -}}
{{- $_ := set $files "fans-tls" (dict "secret" (dict "secretName" $root.Values.fans.tlsSecret)) -}}
{{- end -}}
{{- if and (eq $kind "server") (or $part.policies $part.policiesConfigMap) -}}
{{- $name := default (printf "%s-policies" (include "touchline.fullname" $root)) $part.policiesConfigMap -}}
{{- $_ := set $files "policies" (dict "configMap" (dict "name" $name)) -}}
{{- end -}}
{{- toJson $files -}}
{{- end -}}

{{/* Mounts of these files, each a folder of its name, so that a new version of a secret is seen. */}}
{{- define "touchline.volumeMounts" -}}
{{- $part := get (index . 0).Values (index . 1) -}}
{{- range $name, $_ := include "touchline.files" . | fromJson }}
- name: {{ $name }}
  mountPath: /etc/touchline/{{ $name }}
  readOnly: true
{{- end }}
{{- with $part.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "touchline.volumes" -}}
{{- $part := get (index . 0).Values (index . 1) -}}
{{- range $name, $source := include "touchline.files" . | fromJson }}
- name: {{ $name }}
  {{- toYaml $source | nindent 2 }}
{{- end }}
{{- with $part.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Security of a pod and of its containers: what the level `restricted` of Pod Security asks for. */}}
{{- define "touchline.podSecurity" -}}
runAsNonRoot: true
{{- if not (kindIs "invalid" .Values.pods.user) }}
runAsUser: {{ .Values.pods.user }}
runAsGroup: {{ .Values.pods.user }}
fsGroup: {{ .Values.pods.user }}
fsGroupChangePolicy: OnRootMismatch
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "touchline.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* What pods have in common: (list $ "server" ...). Service links stay off, since the variables of a service
named touchline-page would be read as flags. */}}
{{- define "touchline.podCommon" -}}
{{- $root := index . 0 -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with $root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  {{- include "touchline.podSecurity" $root | nindent 2 }}
dnsConfig:
  options:
    - name: ndots
      value: {{ $root.Values.pods.dnsNdots | quote }}
{{- end -}}

{{/* Where server, push adapter and gateway run: (list $ "server"). */}}
{{- define "touchline.placement" -}}
{{- $root := index . 0 -}}
{{- $kind := index . 1 -}}
{{- $part := get $root.Values $kind -}}
{{- if $root.Values.priorityClass.create }}
priorityClassName: {{ include "touchline.fullname" $root }}
{{- else if $root.Values.pods.priorityClassName }}
priorityClassName: {{ $root.Values.pods.priorityClassName }}
{{- end }}
{{- with $part.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $part.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $part.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if or $root.Values.pods.spreadZones $root.Values.pods.spreadNodes }}
topologySpreadConstraints:
  {{- range $key, $unsatisfiable := dict "topology.kubernetes.io/zone" $root.Values.pods.spreadZones "kubernetes.io/hostname" $root.Values.pods.spreadNodes }}
  {{- if $unsatisfiable }}
  - maxSkew: 1
    topologyKey: {{ $key }}
    whenUnsatisfiable: {{ $unsatisfiable }}
    labelSelector:
      matchLabels:
        {{- include "touchline.selectorLabels" (list $root $kind) | nindent 8 }}
    # Each version of the pods is spread by itself, so that a rolling restart ends as evenly as it began.
    matchLabelKeys: [pod-template-hash]
  {{- end }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Labels and annotations of a pod: (list $ "server" PORT). */}}
{{- define "touchline.podMetadata" -}}
{{- $root := index . 0 -}}
{{- $part := get $root.Values (index . 1) -}}
{{- $annotations := dict -}}
{{- if eq $root.Values.monitoring.scrape "annotations" -}}
{{- $annotations = dict "prometheus.io/scrape" "true" "prometheus.io/port" (toString (index . 2)) "prometheus.io/path" "/metrics" -}}
{{- end -}}
{{- $annotations = merge (dict) (default dict $part.podAnnotations) $annotations -}}
labels:
  {{- include "touchline.labels" (list $root (index . 1)) | nindent 2 }}
  {{- with $part.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with $annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* preStop of a part: the pause that Kubernetes itself makes, since the image has no shell to sleep in. */}}
{{- define "touchline.lifecycle" -}}
{{- $part := get (index . 0).Values (index . 1) -}}
{{- if $part.preStopSeconds }}
lifecycle:
  preStop:
    sleep:
      seconds: {{ $part.preStopSeconds }}
{{- end }}
{{- end -}}

{{/* Environment of a part: (list $ "push"). */}}
{{- define "touchline.env" -}}
{{- $root := index . 0 -}}
{{- $part := get $root.Values (index . 1) -}}
{{- if eq (index . 1) "push" }}
- name: POD_IP
  valueFrom:
    fieldRef:
      fieldPath: status.podIP
{{- end }}
{{- with $part.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Startup and liveness over HTTP, on the port of metrics: whether the process lives, not whether what it
needs does, which no restart mends. */}}
{{- define "touchline.lifeProbes" -}}
startupProbe:
  httpGet:
    path: /healthz
    port: metrics
  periodSeconds: 2
  # A large file of users or interactions is read before anything listens.
  failureThreshold: 150
livenessProbe:
  httpGet:
    path: /healthz
    port: metrics
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
{{- end -}}

{{/* Who may scrape, as a rule of a NetworkPolicy. The kubelet's probes need none. */}}
{{- define "touchline.scrapeIngress" -}}
- ports:
    - port: metrics
  from:
    {{- if .Values.networkPolicy.monitoring }}
    {{- toYaml .Values.networkPolicy.monitoring | nindent 4 }}
    {{- else }}
    - namespaceSelector: {}
    {{- end }}
{{- end -}}

{{/* What every process may reach: names; AWS, the token issuer and whatever else speaks https; credentials of EKS
Pod Identity; the embedded store. */}}
{{- define "touchline.commonEgress" -}}
- ports:
    - port: 53
      protocol: UDP
    - port: 53
      protocol: TCP
- ports:
    - port: 443
- to:
    - ipBlock:
        cidr: {{ ternary "fd00:ec2::23/128" "169.254.170.23/32" .Values.ipv6 }}
  ports:
    - port: 80
{{- if eq .Values.store.kind "embedded" }}
- to:
    - podSelector:
        matchLabels:
          {{- include "touchline.selectorLabels" (list . "store") | nindent 10 }}
  ports:
    - port: 8000
{{- end }}
{{- with .Values.networkPolicy.extraEgress }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* One step of `helm test`: (list $ ARGS). */}}
{{- define "touchline.testContainer" -}}
{{- $root := index . 0 -}}
image: {{ include "touchline.image" (list $root "cli") | quote }}
imagePullPolicy: {{ $root.Values.image.pullPolicy }}
securityContext:
  {{- include "touchline.containerSecurity" $root | nindent 2 }}
args:
  {{- range index . 1 }}
  - {{ . | quote }}
  {{- end }}
  - {{ printf "--server=%s" (include "touchline.serverUrl" $root) | quote }}
  {{- with include "touchline.callerArgs" (list $root "test") | trim }}
  {{- . | nindent 2 }}
  {{- end }}
resources:
  requests: { cpu: 10m, memory: 32Mi }
  limits: { memory: 64Mi }
{{- with include "touchline.volumeMounts" (list $root "test") | trim }}
volumeMounts:
  {{- . | nindent 2 }}
{{- end }}
{{- end -}}
