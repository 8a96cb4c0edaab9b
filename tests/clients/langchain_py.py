#!/usr/bin/env python3
"""LangChain (langchain-openai) against an OpenAI/DeepSeek-compatible endpoint."""
import asyncio
from importlib.metadata import version
import openai
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI
from common import *
print("langchain-openai", version("langchain-openai"), BASE_URL, MODEL)

def chat(more={}, **kw):
    kw = {"base_url": BASE_URL, "api_key": API_KEY, "model": MODEL, "timeout": 120, "max_retries": 0, "max_tokens": 32, **kw}
    return ChatOpenAI(**kw, extra_body={"thinking": {"type": "disabled"}, **more})

def adds_up(u):
    assert u and u["total_tokens"] == u["input_tokens"] + u["output_tokens"] > 0 < u["output_tokens"], u
    return f"{u['input_tokens']}+{u['output_tokens']}"

@check("invoke: content, finish_reason, usage_metadata, model and id")
def _():
    r = chat(temperature=0).invoke([SystemMessage("Be brief."), HumanMessage("Say hi")])
    assert isinstance(r, AIMessage) and r.content and r.id, r
    assert r.response_metadata["finish_reason"] in ("stop", "length") and r.response_metadata["model_name"], r.response_metadata
    return adds_up(r.usage_metadata)

@check("a turn of the assistant goes back with the conversation")
def _():
    first = [HumanMessage("My name is Ada."), AIMessage("Hello, Ada."), HumanMessage("What is my name?")]
    one, three = (chat(max_tokens=4).invoke(m).usage_metadata["input_tokens"] for m in (first[:1], first))
    assert three > one, (one, three); return f"{one} -> {three} prompt tokens"

@check("stream: chunks add up to one message with text, one finish_reason, usage_metadata")
def _():
    whole, fin, n = None, [], 0
    for k in chat(ENDLESS, stream_usage=True).stream("Count to five"):
        whole = k if whole is None else whole + k; n += 1
        if k.response_metadata.get("finish_reason"): fin.append(k.response_metadata["finish_reason"])
    assert whole.content and len(fin) == 1 and n > 3, (whole, fin, n)
    return f"{n} chunks, finish={fin[0]}, usage={adds_up(whole.usage_metadata)}"

def streamed_total(**kw):
    ask = dict(temperature=0, max_tokens=8); whole = None
    for k in chat(**kw, **ask).stream("Count to five"): whole = k if whole is None else whole + k
    plain = chat(**ask).invoke("Count to five").usage_metadata["total_tokens"]
    assert whole.usage_metadata["total_tokens"] == plain, (whole.usage_metadata, plain); return plain

@check("a stream's usage equals that of the same answer whole")
def _(): return streamed_total(stream_usage=False)

# LangChain adds up what it finds in the finish chunk and in the trailing chunk.
@check("the same with include_usage: counted once", "usage_once")
def _(): return streamed_total(stream_usage=True)

@check("batch: an answer for each question, in order")
def _():
    out = chat(max_tokens=8).batch([f"Say the number {i}" for i in range(4)], config={"max_concurrency": 4})
    assert len(out) == 4 and all(m.usage_metadata["output_tokens"] <= 8 for m in out), out

@check("asynchronous: a chain prompt | model | parser streams, 4 questions at once")
def _():
    chain = ChatPromptTemplate.from_messages([("system", "Be brief."), ("human", "Name a {thing}.")]) | chat(ENDLESS) | StrOutputParser()
    async def main():  # one loop: LangChain keeps its connections from one chat to the next
        pieces = [t async for t in chain.astream({"thing": "colour"})]
        return pieces, await asyncio.gather(*[chat(max_tokens=8).ainvoke(f"Say {i}") for i in range(4)])
    pieces, four = asyncio.run(main())
    assert "".join(pieces) and len(pieces) > 1 and len(four) == 4, (pieces, four); return f"{len(pieces)} pieces"

@check("seed: the same answer twice")
def _():
    one, two = (chat(seed=7, temperature=1).invoke("Tell me a story").content for _i in range(2)); assert one == two, (one, two)

@check("bind_tools: the model calls", "tools")
def _():
    def get_weather(location: str) -> str:
        """Get the weather of a city"""
        return "24C"
    assert chat().bind_tools([get_weather]).invoke("Weather in Hangzhou? Use get_weather.").tool_calls

@check("with_structured_output", "json_schema")
def _():
    from pydantic import BaseModel
    class A(BaseModel): answer: str
    assert chat().with_structured_output(A).invoke("answer in json").answer is not None

@check("wrong key -> AuthenticationError")
def _():
    try: chat(api_key="sk-wrong").invoke("x")
    except openai.AuthenticationError as e: return e.status_code
    raise AssertionError("no error")

@check("unknown model -> an error with a message, streamed or not")
def _():
    for call in (lambda m: m.invoke("x"), lambda m: list(m.stream("x"))):
        try: call(chat(model="no-such-model"))
        except openai.APIStatusError as e: assert e.status_code in (400, 404) and e.body.get("message"), e
        else: raise AssertionError("no error")

@check("a stream left early: the next question is answered")
def _():
    s = chat(max_tokens=2000).stream("Tell me a very long story")
    for i, _k in enumerate(s):
        if i == 3: break
    s.close(); assert chat(max_tokens=4).invoke("hi").usage_metadata
finish()
