"""Service B with FastAPI and aio-pika, measured by ``python -m bench.compare``.

It reads the URL of the broker from the environment variable BROKER. A task is one persistent
message in the queue ``tasks``; the worker sends its outcome to the queue ``results``. The states of
all tasks are in a dictionary of this process.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import aio_pika
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, model_validator

EQUIPMENT_ID = re.compile(r"[a-zA-Z0-9]{6,}")
NO_EQUIPMENT = {"code": 404, "message": "The requested equipment is not found"}
NO_TASK = {"code": 404, "message": "The requested task is not found"}
RUNNING = {"code": 204, "message": "Task is still running"}
OUTCOMES = {
    "completed": {"code": 200, "message": "Completed"},
    "failed": {"code": 500, "message": "Internal provisioning exception"},
    "not found": NO_EQUIPMENT,
}


class Parameters(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)
    username: Annotated[str, Field(min_length=1)] | None = None
    password: Annotated[str, Field(min_length=1)] | None = None
    vlan: Annotated[int, Field(ge=1, le=4094)] | None = None
    interfaces: list[Annotated[int, Field(ge=0)]] | None = None


class Order(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)
    timeoutInSeconds: Annotated[int, Field(ge=1, le=1500)]
    parameters: Parameters | Annotated[list[Parameters], Field(min_length=1)]

    @model_validator(mode="after")
    def has_parameters(self) -> Order:
        given = self.parameters if isinstance(self.parameters, list) else [self.parameters]
        if not all(each.model_fields_set or each.model_extra for each in given):
            raise ValueError("at least one key is required")
        return self


class Tasks:
    """The states of all tasks, and the channel to the broker."""

    def __init__(self) -> None:
        self.states: dict[str, tuple[str, str]] = {}
        self.exchange: Any = None

    async def submit(self, equipment_id: str, body: bytes) -> str:
        """Return the id of a new task, once the broker has confirmed it."""
        task_id = secrets.token_hex(16)
        message = aio_pika.Message(
            body,
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            message_id=task_id,
            headers={"equipment": equipment_id},
        )
        self.states[task_id] = equipment_id, "running"
        try:
            await self.exchange.publish(message, routing_key="tasks", mandatory=True)
        except BaseException:
            del self.states[task_id]
            raise
        return task_id

    async def on_result(self, message: Any) -> None:
        equipment_id, _ = self.states.get(message.message_id, ("", ""))
        self.states[message.message_id] = equipment_id, message.body.decode()
        await message.ack()


tasks = Tasks()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    connection = await aio_pika.connect_robust(os.environ["BROKER"])
    async with connection:
        channel = await connection.channel(publisher_confirms=True)
        quorum = {"x-queue-type": "quorum"}
        await channel.declare_queue("tasks", durable=True, arguments=quorum)
        results = await channel.declare_queue("results", durable=True, arguments=quorum)
        tasks.exchange = channel.default_exchange
        receiving = await connection.channel()
        await receiving.set_qos(prefetch_count=500)
        results = await receiving.get_queue("results")
        await results.consume(tasks.on_result)
        yield


app = FastAPI(lifespan=lifespan, openapi_url=None)


@app.exception_handler(RequestValidationError)
async def refused(request: Request, error: RequestValidationError) -> JSONResponse:
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"][1:]))
    return JSONResponse({"code": 400, "message": f"{place}: {first['msg']}"}, 400)


@app.post("/api/v1/equipment/cpe/{equipment_id}")
async def submit(equipment_id: str, order: Order, request: Request) -> JSONResponse:
    if not EQUIPMENT_ID.fullmatch(equipment_id):
        return JSONResponse(NO_EQUIPMENT, 404)
    try:
        task_id = await tasks.submit(equipment_id, await request.body())
    except aio_pika.exceptions.AMQPError:
        unavailable = {"code": 503, "message": "The service is temporarily unavailable"}
        return JSONResponse(unavailable, 503, {"Retry-After": "2"})
    location = f"/api/v1/equipment/cpe/{equipment_id}/task/{task_id}"
    return JSONResponse({"code": 200, "taskId": task_id}, 200, {"Location": location})


@app.get("/api/v1/equipment/cpe/{equipment_id}/task/{task_id}")
async def status(equipment_id: str, task_id: str) -> JSONResponse:
    owner, state = tasks.states.get(task_id, ("", ""))
    if owner != equipment_id:
        return JSONResponse(NO_TASK, 404)
    if state == "running":
        return JSONResponse(RUNNING, 200, {"Retry-After": "5"})
    return JSONResponse(OUTCOMES[state], int(str(OUTCOMES[state]["code"])))
