{{- define "share.name" -}}
{{- .Values.fullnameOverride | default "gpu-share-broker" | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- /* Of objects that no namespace has: two Hubs of one cluster each have theirs. */ -}}
{{- define "share.clusterName" -}}
{{- printf "%s-%s" .Release.Namespace (include "share.name" .) -}}
{{- end -}}

{{- /* What a value adds to a map with keys of the chart's own, none of which it names. */ -}}
{{- define "share.added" -}}
{{- range $key, $_ := .more -}}
{{- if hasKey $.own $key -}}
{{- fail (printf "%s: the chart itself sets %s, so leave that out" $.at $key) -}}
{{- end -}}
{{- end -}}
{{- with .more -}}
{{- toYaml . -}}
{{- end -}}
{{- end -}}

{{- define "share.kernels" -}}
{{- if eq .Values.kernels.namespace .Release.Namespace -}}
{{- fail "kernels.namespace is the release's own namespace: kernels need another one, which has no Secret of the Hub and takes no privileged pods" -}}
{{- end -}}
{{- .Values.kernels.namespace -}}
{{- end -}}

{{- define "share.kernelLabels" -}}
{{ include "share.labels" . }}
gpu-share.jupyter.org/kernels: "true"
# No pod here has privileges or a part of the node, whoever makes it.
pod-security.kubernetes.io/enforce: restricted
pod-security.kubernetes.io/enforce-version: latest
pod-security.kubernetes.io/warn: restricted
pod-security.kubernetes.io/warn-version: latest
{{- if .Values.adminAccess }}
resource.kubernetes.io/admin-access: "true"
{{- end }}
{{- end -}}

{{- define "share.podLabels" -}}
{{ include "share.labels" . }}
# Zero to JupyterHub lets pods with this label reach the Hub.
hub.jupyter.org/network-access-hub: "true"
{{- end -}}

{{- define "share.hubNamespace" -}}
{{- .Values.hub.namespace | default .Release.Namespace -}}
{{- end -}}

{{- define "share.hubApi" -}}
{{- .Values.hub.apiUrl | default (printf "http://hub.%s:8081%s/hub/api" (include "share.hubNamespace" .) (.Values.hub.baseUrl | trimSuffix "/")) -}}
{{- end -}}

{{- define "share.prefix" -}}
{{- printf "%s/services/%s/" (.Values.hub.baseUrl | trimSuffix "/") .Values.hub.service -}}
{{- end -}}

{{- /* Where names are asked for, besides kube-system: a rule's `to`, as a list in YAML. */ -}}
{{- define "share.resolvers" -}}
{{- range .Values.networkPolicy.resolvers }}
- ipBlock:
    cidr: {{ . | quote }}
{{- end }}
{{- end -}}

{{- /* As what Prometheus knows the broker. */ -}}
{{- define "share.instance" -}}
{{- printf "%s/%s" .Release.Namespace (include "share.name" .) -}}
{{- end -}}

{{- /* Whether metrics are served; "" if not. */ -}}
{{- define "share.metrics" -}}
{{- if or .Values.metrics.enabled .Values.metrics.serviceMonitor.enabled -}}
{{- if and (dig "Broker" "metrics_by_user" false .Values.config) (not .Values.metrics.tokenSecret) -}}
{{- fail "metrics.tokenSecret: config.Broker.metrics_by_user names users, so name a Secret with a token that Prometheus has to send" -}}
{{- end -}}
{{- if and .Values.networkPolicy.enabled (not .Values.networkPolicy.prometheusNamespace) (not .Values.networkPolicy.ingress) -}}
{{- fail "networkPolicy.prometheusNamespace: labels of Prometheus' namespace, without which it does not reach the metrics" -}}
{{- end -}}
true
{{- end -}}
{{- end -}}

{{- define "share.image" -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}

{{- define "share.selector" -}}
app.kubernetes.io/name: jupyter-gpu-share
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: broker
{{- end -}}

{{- define "share.labels" -}}
{{ include "share.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- /* Documents of a file of etc/kubernetes, as a list in YAML. */ -}}
{{- define "share.documents" -}}
{{- range regexSplit "(?m)^---$" (index . 1) -1 }}
- {{ fromYaml . | toJson }}
{{- end -}}
{{- end -}}
