"""Hooks of a program of the operator's, for tests."""

import asyncio


def allow(question):
    return {"allow": True, "attributes": {"checked": question["how"]}}


async def slow(question):
    await asyncio.sleep(0)
    return {"allow": True}


async def refuse(question):
    return {"allow": False, "reason": f"no {question['device']} here"}


def broken(question):
    raise RuntimeError("out of order")


def nothing(question):
    return None


def odd(question):
    return {"allow": True, "attributes": 5}
