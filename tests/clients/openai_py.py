#!/usr/bin/env python3
"""openai-python against an OpenAI/DeepSeek-compatible endpoint."""
import asyncio, json, time, urllib.request
import openai
from openai import OpenAI, AsyncOpenAI
from common import *
print("openai-python", openai.__version__, BASE_URL, MODEL)
c = OpenAI(base_url=BASE_URL, api_key=API_KEY, timeout=120, max_retries=0)
NOTHINK = {"thinking": {"type": "disabled"}}
U = lambda s: [{"role": "user", "content": s}]
WEATHER = {"type": "function", "function": {"name": "get_weather", "description": "Get the weather of a city",
           "parameters": {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]}}}

@check("models.list")
def _():
    ids = [m.id for m in c.models.list()]
    assert MODEL in ids, ids; return ",".join(ids)[:80]

@check("chat non-stream: shape, usage arithmetic")
def _():
    r = c.chat.completions.create(model=MODEL, messages=[{"role": "system", "content": "Be brief."}, *U("Say hi")], max_tokens=64, extra_body=NOTHINK)
    assert r.object == "chat.completion" and r.id and r.created and r.model, r
    ch = r.choices[0]; assert ch.message.role == "assistant" and isinstance(ch.message.content, str) and ch.finish_reason in ("stop", "length"), ch
    u = r.usage; assert u.total_tokens == u.prompt_tokens + u.completion_tokens > 0, u
    return f"finish={ch.finish_reason} usage={u.prompt_tokens}+{u.completion_tokens}"

@check("usage has prompt_cache_hit/miss_tokens, system_fingerprint present", "deepseek_fields")
def _():
    r = c.chat.completions.create(model=MODEL, messages=U("cache fields"), max_tokens=16, extra_body=NOTHINK)
    u = r.usage.model_dump(); assert u["prompt_cache_hit_tokens"] + u["prompt_cache_miss_tokens"] == u["prompt_tokens"], u
    assert r.system_fingerprint; return r.system_fingerprint

@check("max_tokens=1 -> finish_reason length, completion_tokens<=1")
def _():
    r = c.chat.completions.create(model=MODEL, messages=U("Tell me a long story"), max_tokens=1, extra_body={**NOTHINK, **ENDLESS})
    assert r.choices[0].finish_reason == "length", r.choices[0]; return r.usage.completion_tokens

@check("stream: role first, increasing content, one finish_reason, usage with include_usage, same id")
def _():
    ids, txt, fin, use, n, t0, ttft = set(), "", [], None, 0, time.time(), None
    with c.chat.completions.create(model=MODEL, messages=U("Count to five"), stream=True, max_tokens=128, stream_options={"include_usage": True}, extra_body={**NOTHINK, **ENDLESS}) as s:
        for ck in s:
            assert ck.object == "chat.completion.chunk", ck
            ids.add(ck.id); n += 1
            if ck.usage: use = ck.usage
            for ch in ck.choices:
                if ch.delta.content: txt += ch.delta.content; ttft = ttft or time.time() - t0
                if ch.finish_reason: fin.append(ch.finish_reason)
    assert len(ids) == 1 and txt and len(fin) == 1 and use and use.total_tokens == use.prompt_tokens + use.completion_tokens, (ids, txt, fin, use)
    return f"{n} chunks, ttft {ttft:.3f}s, finish={fin[0]}"

@check("UTF-8 (CJK + emoji) survives streaming", "echo")
def _():
    s = c.chat.completions.create(model=MODEL, messages=U("你好🙂 repeat"), max_tokens=64, stream=True, extra_body=NOTHINK)
    t = "".join(ch.delta.content or "" for ck in s for ch in ck.choices); assert "你好🙂" in t and "\ufffd" not in t, t

@check("thinking: reasoning_content non-stream", "reasoning")
def _():
    m = c.chat.completions.create(model=MODEL, messages=U("2+2?"), max_tokens=64, reasoning_effort="high", extra_body={"thinking": {"type": "enabled"}}).choices[0].message
    assert getattr(m, "reasoning_content", None) and m.content, m

@check("thinking: reasoning_content deltas precede content in stream", "reasoning")
def _():
    order = []
    for ck in c.chat.completions.create(model=MODEL, messages=U("2+2?"), max_tokens=64, stream=True, extra_body={"thinking": {"type": "enabled"}}):
        for ch in ck.choices:
            if getattr(ch.delta, "reasoning_content", None): order.append("r")
            if ch.delta.content: order.append("c")
    assert "r" in order and "c" in order and order.index("c") > max(i for i, x in enumerate(order) if x == "r"), order[:20]

@check("thinking disabled: no reasoning_content", "reasoning")
def _():
    m = c.chat.completions.create(model=MODEL, messages=U("2+2?"), max_tokens=64, extra_body=NOTHINK).choices[0].message
    assert not getattr(m, "reasoning_content", None), m

@check("tools: call then tool result round trip", "tools")
def _():
    msgs = U("What is the weather in Hangzhou? Use get_weather.")
    m = c.chat.completions.create(model=MODEL, messages=msgs, tools=[WEATHER], extra_body=NOTHINK).choices[0]
    assert m.finish_reason == "tool_calls", m
    tc = m.message.tool_calls[0]; args = json.loads(tc.function.arguments); assert tc.id and tc.type == "function" and tc.function.name == "get_weather" and "location" in args, tc
    msgs += [m.message, {"role": "tool", "tool_call_id": tc.id, "content": "24C sunny"}]
    r = c.chat.completions.create(model=MODEL, messages=msgs, tools=[WEATHER], extra_body=NOTHINK).choices[0]
    assert r.message.content and r.finish_reason == "stop", r; return args

@check("tools: named tool_choice forces the call", "tools")
def _():
    r = c.chat.completions.create(model=MODEL, messages=U("hello"), tools=[WEATHER], tool_choice={"type": "function", "function": {"name": "get_weather"}}, extra_body=NOTHINK).choices[0]
    assert r.message.tool_calls and r.message.tool_calls[0].function.name == "get_weather", r

@check("tools: streamed arguments assemble (openai stream helper)", "tools")
def _():
    with c.chat.completions.stream(model=MODEL, messages=U("weather in Hangzhou, use get_weather twice"), tools=[WEATHER], extra_body=NOTHINK) as s:
        for _e in s: pass
        m = s.get_final_completion().choices[0]
    assert m.finish_reason == "tool_calls" and m.message.tool_calls, m
    for t in m.message.tool_calls: json.loads(t.function.arguments); assert t.id and t.function.name
    return f"{len(m.message.tool_calls)} calls"

@check("JSON mode json_object parses", "json")
def _():
    r = c.chat.completions.create(model=MODEL, messages=U('Reply in json like {"answer":"OK"}'), response_format={"type": "json_object"}, extra_body=NOTHINK)
    assert isinstance(json.loads(r.choices[0].message.content), dict)

@check("response_format json_schema via .parse()", "json_schema")
def _():
    from pydantic import BaseModel
    class A(BaseModel): answer: str; n: int
    r = c.chat.completions.parse(model=MODEL, messages=U("answer in json"), response_format=A, extra_body=NOTHINK)
    assert r.choices[0].message.parsed.n is not None; return r.choices[0].message.parsed

@check("logprobs + top_logprobs", "logprobs")
def _():
    r = c.chat.completions.create(model=MODEL, messages=U("hi"), logprobs=True, top_logprobs=1, max_tokens=8, extra_body=NOTHINK)
    x = r.choices[0].logprobs.content; assert x and x[0].logprob <= 0 and len(x[0].top_logprobs) == 1, x

@check("stop sequence cuts text (the model must finish by itself or say it)", "stop")
def _():
    r = c.chat.completions.create(model=MODEL, messages=U("alpha STOPHERE beta"), max_tokens=64, stop=["STOPHERE"], extra_body=NOTHINK)
    assert "STOPHERE" not in r.choices[0].message.content and r.choices[0].finish_reason == "stop"

@check("stop at what the model says: the same answer without it is cut there")
def _():
    ask = dict(model=MODEL, messages=U("Tell me a long story"), max_tokens=24, temperature=0, extra_body=NOTHINK)
    whole = c.chat.completions.create(**ask).choices[0].message.content; word = whole.split()[5]
    r = c.chat.completions.create(**ask, stop=[word]).choices[0]
    assert r.finish_reason == "stop" and r.message.content == whole[:whole.index(word)], (whole, word, r); return word

@check("content parts array accepted (text parts)")
def _():
    c.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": [{"type": "text", "text": "hi"}]}], max_tokens=8, extra_body=NOTHINK)

@check("unknown/OpenAI-only fields tolerated (user, n=1, seed, logit_bias, metadata, store=False, parallel_tool_calls)")
def _():
    c.chat.completions.create(model=MODEL, messages=U("hi"), max_tokens=8, n=1, seed=7, user="u-1", logit_bias={}, extra_body={**NOTHINK, "user_id": "u-1", "metadata": {"a": "b"}, "store": False})

@check("developer role accepted", "developer_role")
def _(): c.chat.completions.create(model=MODEL, messages=[{"role": "developer", "content": "be brief"}, *U("hi")], max_tokens=8, extra_body=NOTHINK)

@check("chat prefix completion (beta)", "prefix")
def _():
    b = OpenAI(base_url=ROOT + "/beta", api_key=API_KEY, max_retries=0)
    r = b.chat.completions.create(model=MODEL, messages=[*U("Write quick sort"), {"role": "assistant", "content": "```python\n", "prefix": True}], stop=["```"], extra_body=NOTHINK)
    assert r.choices[0].message.content is not None

@check("FIM completions (beta), stream and not", "fim")
def _():
    b = OpenAI(base_url=ROOT + "/beta", api_key=API_KEY, max_retries=0)
    r = b.completions.create(model=MODEL, prompt="def f(a):", suffix="    return x", max_tokens=16); assert r.object == "text_completion" and r.choices[0].text is not None
    assert "".join(k.choices[0].text for k in b.completions.create(model=MODEL, prompt="def f(a):", suffix="return", max_tokens=16, stream=True) if k.choices)

@check("user balance", "balance")
def _():
    r = c._client.get(ROOT + "/user/balance", headers={"Authorization": f"Bearer {API_KEY}"}).json(); assert "is_available" in r and r["balance_infos"][0]["currency"], r

@check("embeddings (SDK default base64)", "embeddings")
def _():
    r = c.embeddings.create(model=MODEL, input=["a", "b"]); assert len(r.data) == 2 and isinstance(r.data[0].embedding[0], float)

@check("Responses API non-stream + stream events", "responses")
def _():
    r = c.responses.create(model=MODEL, input="hi", instructions="brief"); assert r.status == "completed" and r.output_text
    kinds = [e.type for e in c.responses.create(model=MODEL, input="hi", stream=True)]
    assert kinds[0] == "response.created" and kinds[-1] == "response.completed" and "response.output_text.delta" in kinds, kinds

@check("401 -> AuthenticationError with JSON error body")
def _():
    try: OpenAI(base_url=BASE_URL, api_key="sk-wrong", max_retries=0).chat.completions.create(model=MODEL, messages=U("x"))
    except openai.AuthenticationError as e: assert e.status_code == 401 and isinstance(e.body, dict) and e.body.get("message"), e.body; return e.body
    raise AssertionError("no error")

@check("unknown model -> 400/404 with error object")
def _():
    try: c.chat.completions.create(model="no-such-model", messages=U("x"))
    except (openai.BadRequestError, openai.NotFoundError) as e: assert e.body and e.body.get("message"); return f"{e.status_code} {e.body['message'][:60]}"
    raise AssertionError("no error")

@check("bad parameters -> 400/422 with error object (bad type, range, empty messages)")
def _():
    out = []
    for kw in ({"temperature": "hot"}, {"temperature": 9}, {"max_tokens": -1}, {"messages": []}, {"messages": "x"}):
        try: c.chat.completions.create(**{"model": MODEL, "messages": U("x"), **kw}); out.append(f"{kw}=ACCEPTED")
        except (openai.BadRequestError, openai.UnprocessableEntityError) as e: assert e.body and e.body.get("message"), e; out.append(str(e.status_code))
    assert not any("ACCEPTED" in o for o in out), out; return ",".join(out)

@check("streaming request error is an HTTP status, not a 200 stream")
def _():
    try: c.chat.completions.create(model="no-such-model", messages=U("x"), stream=True)
    except openai.APIStatusError as e: return e.status_code
    raise AssertionError("no error")

for m, code in FAULTS.items():
    @check(f"fault model {m} -> HTTP {code}")
    def _():
        try: c.chat.completions.create(model=m, messages=U("x"))
        except openai.APIStatusError as e: assert e.status_code == int(code), e; return type(e).__name__
        raise AssertionError("no error")

@check("client timeout raises APITimeoutError; server still serves", None if os.environ.get("SLOW_MODEL") else "slow")
def _():
    # SLOW_MODEL = a model that sends no byte for > 0.3 s. NB keep-alive blank lines reset httpx's read timeout (see mock-slow).
    try: c.with_options(timeout=0.3 if os.environ.get("SLOW_MODEL") else 0.001).chat.completions.create(model=os.environ.get("SLOW_MODEL", MODEL), messages=U("long " * 50), max_tokens=200)
    except openai.APITimeoutError: pass
    else: raise AssertionError("no timeout")
    c.chat.completions.create(model=MODEL, messages=U("hi"), max_tokens=8, extra_body=NOTHINK)

@check("keep-alive: blank lines before JSON and ': keep-alive' comments before the first chunk are harmless", "keepalive")
def _():
    r = c.with_options(timeout=1.0).chat.completions.create(model=os.environ.get("KEEPALIVE_MODEL", "mock-slow"), messages=U("hi"), extra_body=NOTHINK)
    assert r.choices[0].message.content
    t = "".join(ch.delta.content or "" for k in c.with_options(timeout=1.0).chat.completions.create(model=os.environ.get("KEEPALIVE_MODEL", "mock-slow"), messages=U("hi"), stream=True, extra_body=NOTHINK) for ch in k.choices)
    assert t

def state(): return json.load(urllib.request.urlopen(STATE_URL))
@check("cancel mid-stream: close after 3 chunks, server frees the slot" + ("" if STATE_URL else " (no STATE_URL: only next request checked)"))
def _():
    s = c.chat.completions.create(model=MODEL, messages=U("Tell me a very long story"), stream=True, max_tokens=2000, extra_body=NOTHINK)
    for i, _k in enumerate(s):
        if i == 3: break
    s.close()
    if STATE_URL:
        for _i in range(50):
            st = state()
            if st["active"] == 0: break
            time.sleep(0.1)
        assert st["active"] == 0 and st["cancelled"] >= 1, st
    r = c.chat.completions.create(model=MODEL, messages=U("hi"), max_tokens=8, extra_body=NOTHINK); assert r.choices

@check("async: 8 concurrent streams, no cross-talk")
def _():
    async def one(a, i):
        t = ""
        async for k in await a.chat.completions.create(model=MODEL, messages=U(f"marker-{i}-end"), stream=True, max_tokens=64, extra_body={**NOTHINK, **ENDLESS}):
            for ch in k.choices: t += ch.delta.content or ""
        return t
    async def main():
        async with AsyncOpenAI(base_url=BASE_URL, api_key=API_KEY, max_retries=0, timeout=120) as a: return await asyncio.gather(*[one(a, i) for i in range(8)])
    out = asyncio.run(main()); assert all(out), out
    if "echo" in EXPECT or "all" in EXPECT: assert all(f"marker-{i}-end" in t for i, t in enumerate(out)), out

@check("with_raw_response exposes x-request-id", "request_id")
def _():
    r = c.chat.completions.with_raw_response.create(model=MODEL, messages=U("hi"), max_tokens=8, extra_body=NOTHINK)
    assert r.headers.get("x-request-id"), dict(r.headers); return r.headers["x-request-id"]
finish()
