# section: psycopg 3
from datetime import timedelta

import psycopg

from common import fails, sends, the_task

conn = psycopg.connect("", POOLER_OPTION)
for _ in range(10):
    sent, send_mail = sends()
    # BLOCK 1
    assert sent == [{"to": "ann@example.org"}], sent
    the_task(conn, task_id)

conn.rollback()
conn.autocommit = True
with fails(psycopg.ProgrammingError, "cannot adapt type 'dict'"):
    conn.execute("SELECT jobqueue.enqueue('check', %s)", [{"a": 1}])
with fails(psycopg.errors.UndefinedFunction):
    conn.execute("SELECT jobqueue.enqueue('check', %s)", [[1, 2]])
assert len(conn.execute("SELECT jobqueue.enqueue_many('check', %s)", [[Jsonb({}), Jsonb([1])]]).fetchall()) == 2
hour = timedelta(hours=1)
conn.execute("SELECT jobqueue.enqueue('check', delay => %s, timeout => %s)", [hour, hour])
assert conn.execute("SELECT jobqueue.claim(types => %s, lease => %s)", [["check"], hour]).fetchone()
