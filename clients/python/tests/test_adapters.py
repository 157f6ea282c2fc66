"""C6, and C7 for them: enqueue in the open transaction of SQLAlchemy and Django."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from jobqueue import enqueue, enqueue_many, enqueue_unique
from jobqueue.testing import run_tasks

Conn = psycopg.Connection[Any]
PAYLOAD = {"list": [1, "two"], "percent": "100 % :of %s", "text": "Zażółć"}


@pytest.fixture
def url(database: None) -> sqlalchemy.URL:
    return sqlalchemy.URL.create(
        "postgresql+psycopg",
        username="client",
        database=os.environ["PGDATABASE"],
        query={"host": os.environ["PGHOST"], "port": os.environ["PGPORT"]},
    )


@pytest.fixture
def engine(url: sqlalchemy.URL) -> Iterator[sqlalchemy.Engine]:
    engine = sqlalchemy.create_engine(url)
    yield engine
    engine.dispose()


def payloads(admin: Conn, type: str) -> list[Any]:
    """Of the committed tasks of a type. Removes them."""
    found = admin.execute("DELETE FROM jobqueue.tasks WHERE type = %s RETURNING id, payload", [type]).fetchall()
    return [payload for _, payload in sorted(found, key=lambda row: int(row[0]))]


def effects(admin: Conn) -> list[int]:
    return [n for (n,) in admin.execute("SELECT n FROM effects ORDER BY n").fetchall()]


def test_C6_sqlalchemy_connection(engine: sqlalchemy.Engine, admin: Conn) -> None:
    with engine.connect() as conn:
        enqueue(conn, "sa", PAYLOAD)
        conn.rollback()
        id = enqueue(conn, "sa", PAYLOAD)
        assert enqueue_many(conn, "sa", [1, [2]]) == [id + 1, id + 2]
        assert enqueue_unique(conn, "sa", unique_key="k").is_new is True
        assert payloads(admin, "sa") == []
        conn.commit()
    assert payloads(admin, "sa") == [PAYLOAD, 1, [2], {}]


def test_C6_sqlalchemy_session(engine: sqlalchemy.Engine, admin: Conn) -> None:
    with Session(engine) as session:
        session.execute(sqlalchemy.text("INSERT INTO effects VALUES (1)"))
        enqueue(session, "sa", 1)
        session.rollback()
        session.execute(sqlalchemy.text("INSERT INTO effects VALUES (2)"))
        enqueue(session, "sa", 2)
        with session.begin_nested() as savepoint:
            enqueue(session, "sa", 3)
            savepoint.rollback()
        session.commit()
    assert (payloads(admin, "sa"), effects(admin)) == ([2], [2])


def test_C6_sqlalchemy_scoped_session(engine: sqlalchemy.Engine, admin: Conn) -> None:
    session = scoped_session(sessionmaker(engine))
    enqueue(session, "sa", 1)
    session.commit()
    session.remove()
    assert payloads(admin, "sa") == [1]


def test_C6_sqlalchemy_async(url: sqlalchemy.URL, admin: Conn) -> None:
    async def work() -> None:
        engine = create_async_engine(url)
        async with AsyncSession(engine) as session:
            await enqueue(session, "sa", 1)
            await session.rollback()
            first = await enqueue(session, "sa", PAYLOAD)
            assert await enqueue_many(session, "sa", [2, 3]) == [first + 1, first + 2]
            await session.commit()
        async with engine.begin() as conn:
            assert (await enqueue_unique(conn, "sa", 4, unique_key="k")).is_new
        await engine.dispose()

    asyncio.run(work())
    assert payloads(admin, "sa") == [PAYLOAD, 2, 3, 4]


def test_C7_sqlalchemy(engine: sqlalchemy.Engine) -> None:
    with engine.connect() as conn, pytest.raises(sqlalchemy.exc.DBAPIError) as caught:
        enqueue(conn, "")
    assert isinstance(caught.value.orig, psycopg.Error)
    assert caught.value.orig.sqlstate == "22023"


@pytest.fixture(scope="module")
def django_connection(database: None) -> Iterator[Any]:
    from django.conf import settings

    settings.configure(
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.postgresql",
                "NAME": os.environ["PGDATABASE"],
                "HOST": os.environ["PGHOST"],
                "PORT": os.environ["PGPORT"],
                "USER": "client",
            }
        }
    )
    import django

    django.setup()
    from django.db import connection

    yield connection
    connection.close()


def test_C6_django(django_connection: Any, admin: Conn) -> None:
    from django.db import transaction

    class Undo(Exception):
        pass

    with pytest.raises(Undo), transaction.atomic():
        enqueue(django_connection, "dj", 1)
        raise Undo
    with transaction.atomic():
        with django_connection.cursor() as cursor:
            cursor.execute("INSERT INTO effects VALUES (1)")
        id = enqueue(django_connection, "dj", PAYLOAD)
        assert enqueue_many(django_connection, "dj", [2]) == [id + 1]
        assert enqueue_unique(django_connection, "dj", 3, unique_key="k").is_new is True
        assert payloads(admin, "dj") == []
    assert (payloads(admin, "dj"), effects(admin)) == ([PAYLOAD, 2, 3], [1])


def test_C7_django(django_connection: Any) -> None:
    from django.db import Error, transaction

    with pytest.raises(Error) as caught, transaction.atomic():
        enqueue(django_connection, "")
    assert isinstance(caught.value.__cause__, psycopg.Error)
    assert caught.value.__cause__.sqlstate == "22023"


def test_C23_in_the_transaction_of_a_session(engine: sqlalchemy.Engine, admin: Conn) -> None:
    from jobqueue import App, Task

    app = App()
    with Session(engine) as session:

        @app.handler("sa")
        def insert(task: Task) -> None:
            session.execute(sqlalchemy.text("INSERT INTO effects VALUES (:n)"), {"n": task.payload})

        enqueue(session, "sa", 7)
        assert [task.payload for task in run_tasks(session, app)] == [7]
        assert session.execute(sqlalchemy.text("SELECT n FROM effects")).scalars().all() == [7]
        session.rollback()
    assert (payloads(admin, "sa"), effects(admin)) == ([], [])
