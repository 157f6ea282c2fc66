# section: psycopg 2
from datetime import timedelta

import psycopg2

from common import fails, sends, the_task

conn = psycopg2.connect("")
for _ in range(10):
    sent, send_mail = sends()
    # BLOCK 1
    assert sent == [{"to": "ann@example.org"}], sent
    assert conn.info.transaction_status == psycopg2.extensions.TRANSACTION_STATUS_IDLE
    the_task(conn, task_id)
    conn.rollback()

conn.autocommit = True
cursor = conn.cursor()
with fails(psycopg2.errors.UndefinedFunction):
    cursor.execute("SELECT jobqueue.enqueue_many('check', %s)", [[Json({}), Json([1])]])
cursor.execute("SELECT jobqueue.enqueue_many('check', %s::jsonb[])", [[Json({}), Json([1])]])
assert len(cursor.fetchall()) == 2
hour = timedelta(hours=1)
cursor.execute("SELECT jobqueue.enqueue('check', delay => %s, timeout => %s)", [hour, hour])
cursor.execute("SELECT payload FROM jobqueue.claim(types => %s, lease => %s)", [["check"], hour])
assert cursor.fetchone() == ({},)
