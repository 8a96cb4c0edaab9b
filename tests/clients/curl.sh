#!/bin/bash
# curl checks of raw bytes. Env BASE_URL API_KEY MODEL; CURL (curl binary) CURL_OPTS (e.g. "--http2-prior-knowledge", "--http3-only -k")
set -uo pipefail; : "${BASE_URL:=http://127.0.0.1:18080/v1}" "${API_KEY:=sk-test}" "${MODEL:=deepseek-flash}" "${CURL:=curl}" "${CURL_OPTS:=}"
f=0; n=0; k=0; ok() { echo "ok    $1"; n=$((n+1)); }; bad() { echo "FAIL  $1: ${2:0:300}"; f=$((f+1)); }
T=$(mktemp -d); trap 'rm -rf "$T"' EXIT
c() { "$CURL" -sS --max-time 120 $CURL_OPTS -H "Authorization: Bearer $API_KEY" -H 'Content-Type: application/json' "$@"; }
# answers are short where their length is not the point: a small model may ramble to the end of its context
msg() { echo "{\"model\":\"$MODEL\",\"messages\":[{\"role\":\"user\",\"content\":\"${1}\"}],\"thinking\":{\"type\":\"disabled\"}${2:-,\"max_tokens\":24}}"; }
r=$(c -w '\n%{http_code} %{http_version}' "$BASE_URL/models"); [[ "$r" == *'"object"'*'"list"'*200* ]] && ok "GET /models (HTTP/${r##* })" || bad "GET /models" "$r"
r=$(c -d "$(msg hi)" -w '\n%{http_code} %{content_type}' "$BASE_URL/chat/completions"); [[ "$r" == *chat.completion*200\ application/json* ]] && ok "POST chat JSON" || bad "POST chat" "$r"
r=$(c -d "$(msg hi)" "${BASE_URL%/v1}/chat/completions"); [[ "$r" == *chat.completion* ]] && ok "same without /v1" || bad "path without /v1" "$r"
c -N -d "$(msg 'count to ten' ',"stream":true,"max_tokens":24,"stream_options":{"include_usage":true}')" -D "$T/h" -o "$T/s" "$BASE_URL/chat/completions"
grep -qi '^content-type: text/event-stream' "$T/h" && ok "SSE content type" || bad "SSE content type" "$(cat "$T/h")"
grep -q $'\r' "$T/s" && bad "SSE framing is LF only (Dify)" "CR found" || ok "SSE framing is LF only (Dify)"
[ "$(tail -c 14 "$T/s" | head -c 12)" = "data: [DONE]" ] && ok "stream ends with data: [DONE]\\n\\n" || bad "[DONE]" "$(tail -c 40 "$T/s")"
python3 - "$T/s" <<'P' && ok "every event is one data: line or a comment, JSON, has choices; usage present" || { bad "SSE events" "see above"; }
import json,sys
u=None
for ev in open(sys.argv[1],encoding='utf-8').read().split('\n\n'):
    if not ev or ev.startswith(':'): assert '\n' not in ev, ('comment glued to data', ev); continue
    assert ev.startswith('data: ') and '\n' not in ev, ev
    if ev=='data: [DONE]': continue
    d=json.loads(ev[6:]); assert d['object']=='chat.completion.chunk' and isinstance(d['choices'],list), d; u=d.get('usage') or u
assert u and u['total_tokens']==u['prompt_tokens']+u['completion_tokens'], u
P
c -N -d "$(msg 'count to ten' ',"stream":true,"max_tokens":24')" -o "$T/s2" "$BASE_URL/chat/completions"; grep -q '"usage": *{' "$T/s2" && ok "usage in the stream even without stream_options (DeepSeek does; Dify's deepseek plugin needs it)" || bad "usage without stream_options" "$(tail -c 300 "$T/s2")"
# long, without the tokens that end it (of the test model: 0, 2): a stall before the first byte is little beside the rest
t=$(c -N -d "$(msg 'long story' ',"stream":true,"max_tokens":384,"logit_bias":{"0":-100,"2":-100}')" -o /dev/null -w '%{time_starttransfer} %{time_total}' "$BASE_URL/chat/completions"); awk -v t="$t" 'BEGIN{split(t,a," "); exit !(a[1] < a[2]*0.7)}' && ok "first byte well before last ($t)" || bad "stream looks buffered" "$t"
e() { local want=$1 name=$2; shift 2; r=$("$CURL" -sS --max-time 30 $CURL_OPTS -w '\n%{http_code} %{content_type}' "$@"); local code; code=$(tail -1 <<<"$r" | cut -d' ' -f1)
  [[ "|$want|" == *"|$code|"* && "$r" == *'"error"'*'"message"'* && "$r" == *application/json* ]] && ok "$name -> $code with error object" || bad "$name (want $want)" "$r"; }
J=(-H 'Content-Type: application/json'); A=(-H "Authorization: Bearer $API_KEY")
e 401 "no key" "${J[@]}" -d "$(msg x)" "$BASE_URL/chat/completions"
e 401 "bad key" -H 'Authorization: Bearer nope' "${J[@]}" -d "$(msg x)" "$BASE_URL/chat/completions"
e 401 "wrong scheme" -H 'Authorization: Basic abc' "${J[@]}" -d "$(msg x)" "$BASE_URL/chat/completions"
e "400|422" "not JSON" "${A[@]}" "${J[@]}" -d '{oops' "$BASE_URL/chat/completions"
e "400|422" "no messages" "${A[@]}" "${J[@]}" -d "{\"model\":\"$MODEL\"}" "$BASE_URL/chat/completions"
e "400|404" "no such model" "${A[@]}" "${J[@]}" -d '{"model":"zzz","messages":[{"role":"user","content":"x"}]}' "$BASE_URL/chat/completions"
e 404 "no such path" "${A[@]}" "$BASE_URL/nope"
e 405 "wrong method" "${A[@]}" -X DELETE "$BASE_URL/models"
head -c ${BIG:-40000000} /dev/zero | tr '\0' a > "$T/big"
# RFC 9113, 8.1: a server that answers before the body is whole resets the stream with NO_ERROR; curl 7 then drops the answer (error 92)
if [[ "$CURL_OPTS" == *http2* && "$("$CURL" --version)" == curl\ 7.* ]]; then echo "skip  40 MB body: curl 7 drops an answer that comes before the upload's end over HTTP/2"; k=$((k+1))
else e "413|400" "40 MB body" "${A[@]}" "${J[@]}" --data-binary "@$T/big" "$BASE_URL/chat/completions"; fi
echo "$n passed, $f failed, $k skipped"; exit $((f>0))
