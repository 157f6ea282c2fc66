# section: SERIALIZABLE and 40001
import psycopg
from psycopg.types.json import Jsonb

from common import fails

other = psycopg.connect("", autocommit=True)
conn = psycopg.connect("")
tries = 0


def place_order(conn):
    """The first time, the key is taken by another after the snapshot, and free again later."""
    global tries
    tries += 1
    conn.execute("SELECT count(*) FROM jobqueue.tasks")
    if tries == 1:
        other.execute("SELECT jobqueue.enqueue('send_mail', unique_key => 'order 17')")


# BLOCK 1
assert tries == 2, tries
count = "SELECT count(*) FROM jobqueue.tasks WHERE unique_key = 'order 17'"
assert other.execute(count).fetchone()[0] == 1
conn.rollback()

# under SERIALIZABLE a claim gives 40001, also a second time; the block asks for another level
conn.execute("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE")
conn.commit()
conn.isolation_level = None
task = other.execute("SELECT jobqueue.enqueue('check')").fetchone()[0]
for _ in range(2):
    conn.execute("SELECT count(*) FROM jobqueue.tasks")
    other.execute("SELECT jobqueue.release(id, attempts) FROM jobqueue.claim(types => ARRAY['check'])")
    with fails(psycopg.errors.SerializationFailure):
        conn.execute("SELECT id FROM jobqueue.claim(types => ARRAY['check'])")
    conn.rollback()
with fails(psycopg.errors.Error, "wait_for cannot be called"):
    conn.execute("SELECT jobqueue.wait_for(%s, '0 s')", [task])
conn.rollback()

conn.autocommit = True
assert conn.execute("SHOW transaction_isolation").fetchone() == ("serializable",)
cursor = conn.execute("""
    # BLOCK 2
""")
assert other.execute("SELECT status FROM jobqueue.tasks WHERE unique_key = 'order 17'").fetchone() == ("processing",)
