# section: SQLAlchemy
import asyncio
import os

from sqlalchemy import create_engine, select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from common import sends


def work(session):
    sent, send_mail = sends()
    # BLOCK 1
    assert sent == [{"to": "ann@example.org"}], sent

    # BLOCK 2
    task = session.scalars(select(Task).where(Task.id == task_id)).one()
    assert (task.status, task.type, task.queue, task.attempts) == ("completed", "send_mail", "default", 1), task.status
    assert task.payload == {"to": "ann@example.org"} and task.result == {"sent": True}, task.payload
    assert task.created_at < task.finished_at and task.run_at is None
    session.commit()

    # a producer may read it
    session.execute(text("SET LOCAL ROLE clients_producer"))
    check = session.scalar(text("SELECT jobqueue.enqueue('check')"))
    assert session.scalars(select(Task).where(Task.id == check)).one().status == "pending"
    session.commit()


async def asynchronously():
    options = {"statement_cache_size": 0, "prepared_statement_cache_size": 0, "prepared_statement_name_func": str}
    engine = create_async_engine("postgresql+asyncpg://", connect_args=options if "POOLED" in os.environ else {})
    async with AsyncSession(engine) as session:
        for _ in range(10):
            await session.run_sync(work)
    await engine.dispose()


for engine in create_engine("postgresql+psycopg2://"), create_engine("postgresql+psycopg://", POOLER_OPTION):
    with Session(engine) as session:
        for _ in range(10):
            work(session)
    engine.dispose()
asyncio.run(asynchronously())
