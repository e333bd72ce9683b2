{{/* What cannot work and the schema cannot say, or can only say without a reason. Everything that is wrong is said at
once. Included by the server's deployment, which every release has. */}}
{{- define "touchline.validate" -}}
{{- $v := .Values -}}
{{- $wrong := list -}}
{{- $front := include "touchline.front" . -}}
{{- $tokens := include "touchline.hasTokens" . -}}
{{- $known := include "touchline.knowsCallers" . -}}
{{- if not (or $known $v.insecure) -}}
{{- $wrong = append $wrong "callers are not authenticated, and pods that listen beyond their loopback would refuse to start: set auth.jwks (or auth.jwksSecret) with auth.issuer and auth.audience, or tls.clientCaSecret, or insecure: true in so many words" -}}
{{- end -}}
{{- if and $front $known (not $tokens) (not $v.insecure) -}}
{{- $wrong = append $wrong "fans present tokens, never certificates: a front for fans needs auth.jwks (or auth.jwksSecret) beside tls.clientCaSecret, or insecure: true" -}}
{{- end -}}
{{- if $known -}}
{{- range $kind := list "server" "push" "gateway" -}}
{{- $part := get $v $kind -}}
{{- if and (or (ne $kind "gateway") $v.gateway.enabled) (not (or $part.tokenSecret $v.tls.callerSecret)) -}}
{{- $scopes := ternary "events:read, to follow the push adapter's feed" "components:any and events:read, to ask the server and to follow the leader" (eq $kind "server") -}}
{{- $wrong = append $wrong (printf "%s.tokenSecret: callers are authenticated, so %s needs a token of its own (scopes %s), or tls.callerSecret a certificate" $kind $kind $scopes) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and $v.tls.clientCaSecret (not $v.tls.callerSecret) -}}
{{- $wrong = append $wrong "tls.callerSecret: with tls.clientCaSecret every caller needs a certificate, this release's own processes too" -}}
{{- end -}}
{{- if and (eq $v.push.connections "local") (gt (int $v.push.replicas) 1) (not $v.insecure) -}}
{{- $wrong = append $wrong "push.replicas: a local front is posted to by a leader in another pod through its management API, which knows no callers: set push.replicas: 1, or gateway.enabled: true in place of push.connections: local, or insecure: true" -}}
{{- end -}}
{{- range $kind := list "server" "push" "gateway" -}}
{{- $part := get $v $kind -}}
{{- $ending := include "touchline.ending" (list $ $kind) | int -}}
{{- if and (not (kindIs "invalid" $part.terminationGracePeriodSeconds)) (le (int $part.terminationGracePeriodSeconds) $ending) -}}
{{- $wrong = append $wrong (printf "%s.terminationGracePeriodSeconds: %d is too short: a pod takes up to %d seconds to end (%s.preStopSeconds and %s.drainSeconds%s) and would be killed before; leave it null for 15 seconds more than that" $kind (int $part.terminationGracePeriodSeconds) $ending $kind $kind (ternary ", twice" "" (eq $kind "push"))) -}}
{{- end -}}
{{- end -}}
{{- range $kind := list "server" "gateway" -}}
{{- $part := get $v $kind -}}
{{- if and (ne $part.autoscaler "none") (gt (int $part.minReplicas) (int $part.maxReplicas)) -}}
{{- $wrong = append $wrong (printf "%s.minReplicas: %d is more than %s.maxReplicas, %d" $kind (int $part.minReplicas) $kind (int $part.maxReplicas)) -}}
{{- end -}}
{{- end -}}
{{- if and (or $v.fans.ingress.enabled $v.fans.httpRoute.enabled) (not $front) -}}
{{- $wrong = append $wrong "fans.ingress, fans.httpRoute: API Gateway holds the fans' connections, so there is nothing to lead to: set gateway.enabled: true" -}}
{{- end -}}
{{- if $wrong -}}
{{- fail (printf "\n\ntouchline cannot work like this:\n  - %s\n" (join "\n  - " $wrong)) -}}
{{- end -}}
{{- end -}}
