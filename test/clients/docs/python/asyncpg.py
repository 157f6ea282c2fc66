# section: asyncpg
import asyncio
from datetime import datetime, timedelta, timezone

import asyncpg

from common import fails, sends


async def main():
    conn = await asyncpg.connect(POOLER_OPTION)
    for _ in range(10):
        sent, send_mail = sends()
        # BLOCK 1
        assert sent == [{"to": "ann@example.org"}], sent
        query = "SELECT status, payload ->> 'to', result ->> 'sent' FROM jobqueue.tasks WHERE id = $1"
        row = await conn.fetchrow(query, task_id)
        assert tuple(row) == ("completed", "ann@example.org", "true"), row

    with fails(asyncpg.DataError):
        await conn.fetchval("SELECT jobqueue.enqueue('check', $1)", {"a": 1})
    hour = timedelta(hours=1)
    at = datetime(2100, 1, 1)
    delayed = await conn.fetchval("SELECT jobqueue.enqueue('check', delay => $1, timeout => $1)", hour)
    await conn.fetchval("SELECT jobqueue.enqueue('check', run_at => $1)", at)
    run_at = await conn.fetchval("SELECT run_at FROM jobqueue.tasks WHERE id > $1", delayed)
    assert run_at == at.replace(tzinfo=timezone.utc), run_at
    async with conn.transaction():
        await conn.set_type_codec("jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
        await conn.fetchval("SELECT jobqueue.enqueue('check', $1)", [1, 2])
        task = await conn.fetchrow("SELECT * FROM jobqueue.claim(types => $1, lease => $2)", ["check"], hour)
        assert task["payload"] == [1, 2], task


asyncio.run(main())
