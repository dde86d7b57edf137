"""The shop as its clients see it: HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

import eda
from order_list import NAME, OrderList
from sales import DECIDER, STREAM, AddItem, Command, Order, Pay, Place, Refused

WAIT_S = 2.0  # how long a reader waits for its own write

router = APIRouter()


@dataclass
class Shop:
    conn: eda.Conn
    orders: eda.EventStore[Order, Command]
    order_list: OrderList
    projection: eda.Projection


class NewOrder(BaseModel):
    customer: str = Field(min_length=1)


class NewItem(BaseModel):
    sku: str
    cents: int = Field(gt=0)


class Done(BaseModel):
    """The answer to a command. A client that wants to see its own write sends `after` with its next GET."""

    order: str
    version: int
    after: int


def make_app(addr: str, database: str) -> FastAPI:
    """Return the web application. It connects when it starts, and closes everything in order when it ends."""
    app = FastAPI(title="A shop with an event store", lifespan=_lifespan(addr, database))
    app.include_router(router)
    for error, code in ((Refused, 409), (eda.VersionConflict, 409), (eda.ConfigError, 422), (eda.EdaError, 503)):
        app.add_exception_handler(error, _answering(code))
    return app


def _lifespan(addr: str, database: str) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        order_list = OrderList(database)
        await asyncio.to_thread(order_list.create)
        async with (
            eda.connect(addr, client="shop") as conn,
            conn.store(STREAM, DECIDER) as orders,
            conn.projection(
                STREAM, order_list.apply, into=order_list.sink, name=NAME, version=order_list.version
            ) as projection,
        ):
            app.state.shop = Shop(conn, orders, order_list, projection)
            yield

    return lifespan


def _answering(code: int) -> Callable[[Request, Exception], JSONResponse]:
    return lambda _, error: JSONResponse({"detail": str(error)}, code)


def _shop(request: Request) -> Shop:
    shop: Shop = request.app.state.shop
    return shop


TheShop = Annotated[Shop, Depends(_shop)]
RequestId = Annotated[str | None, Header(alias="Idempotency-Key", max_length=100)]
After = Annotated[int | None, Query(gt=0, description="the `after` of an answer: wait until this write is seen")]


# --- writing ---------------------------------------------------------------------------------------------------------


@router.put("/orders/{order}", status_code=201)
async def place(order: str, new: NewOrder, shop: TheShop, request_id: RequestId = None) -> Done:
    """Place an order."""
    return await _execute(shop, order, Place(new.customer), request_id)


@router.post("/orders/{order}/items", status_code=201)
async def add_item(order: str, item: NewItem, shop: TheShop, request_id: RequestId = None) -> Done:
    """Add an item to an open order."""
    return await _execute(shop, order, AddItem(item.sku, item.cents), request_id)


@router.post("/orders/{order}/payment", status_code=201)
async def pay(order: str, shop: TheShop, request_id: RequestId = None) -> Done:
    """Pay an open order."""
    return await _execute(shop, order, Pay(), request_id)


async def _execute(shop: Shop, order: str, command: Command, request_id: str | None) -> Done:
    """Execute a command. If a client got no answer and sends the request again under its id, it is applied once."""
    result = await shop.orders.execute(order, command, command_id=request_id)
    assert result.receipt is not None  # every command of this shop has an event
    return Done(order=order, version=result.version, after=result.receipt.sequence)


# --- reading ---------------------------------------------------------------------------------------------------------


@router.get("/orders/{order}")
async def find(order: str, shop: TheShop, after: After = None) -> dict[str, Any]:
    """Return an order as the read model has it."""
    await _wait(shop, after)
    row = await asyncio.to_thread(shop.order_list.find, order)
    if row is None:
        raise HTTPException(404, f"there is no order {order}")
    return row


@router.get("/customers")
async def best_customers(
    shop: TheShop, after: After = None, n: Annotated[int, Query(ge=1, le=1000)] = 10
) -> list[dict[str, Any]]:
    """Return the customers who have paid most."""
    await _wait(shop, after)
    return await asyncio.to_thread(shop.order_list.best_customers, n)


async def _wait(shop: Shop, after: int | None) -> None:
    """Wait until the read model has the event at this sequence. Raises eda.Timeout, which becomes the answer 503."""
    if after is not None:
        await shop.projection.wait_for(eda.Receipt("", STREAM, after), timeout_s=WAIT_S)


@router.get("/health")
async def health(shop: TheShop) -> JSONResponse:
    """Return how well the shop is, and 503 if it can't reach the server or if its read model is not kept up to date."""
    report = await shop.conn.health(timeout_s=1.0)
    has_ended = any(projection["state"] == "ended" for projection in report["projections"])
    return JSONResponse(report, 503 if report["status"] == "down" or has_ended else 200)
