"""What works in which mode of pgbouncer, as the table of doc/clients.md says: pgbouncer.py PAGE MODE.

PGPORT is that of pgbouncer, DIRECT_PORT that of the server.

section: pgbouncer
"""

import os
import re
import sys
import threading

import psycopg


def pooled():
    return psycopg.connect("", autocommit=True, prepare_threshold=None)


def direct():
    return psycopg.connect("", port=os.environ["DIRECT_PORT"], autocommit=True)


def one_by_one():
    with pooled() as conn:
        def value(query, *arguments):
            return conn.execute(query, arguments).fetchone()[0]

        # several, so that statements of one client meet different connections to the server
        for _ in range(5):
            task = value("SELECT jobqueue.enqueue('one')")
            assert value("SELECT id FROM jobqueue.claim(types => ARRAY['one'])") == task
            assert value("SELECT jobqueue.extend_lease(%s, 1)", task)
            assert value("SELECT jobqueue.release(%s, 1)", task)
            assert value("SELECT id FROM jobqueue.complete_and_claim('{}', '{}', types => ARRAY['one'])") == task
            assert value("SELECT jobqueue.complete(%s, 2)", task)
    return True


def transactions():
    with pooled() as conn:
        try:
            with conn.transaction():
                conn.execute("SELECT jobqueue.enqueue('both')")
                conn.execute("SELECT jobqueue.enqueue('both')")
        except psycopg.Error:
            return False
    with pooled() as conn:
        return conn.execute("SELECT count(*) FROM jobqueue.tasks WHERE type = 'both'").fetchone() == (2,)


def wait_for():
    status = []
    with pooled() as conn, pooled() as worker, direct() as observer:
        task = conn.execute("SELECT jobqueue.enqueue('waited')").fetchone()[0]
        query = "SELECT status FROM jobqueue.wait_for(%s, '60 s')"
        waiting = threading.Thread(target=lambda: status.append(conn.execute(query, [task]).fetchone()[0]))
        waiting.start()
        # its connection to the server is busy for as long as it waits
        busy = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query ~ '^SELECT status .*wait_for'"
        while observer.execute(busy).fetchone() != (1,):
            assert waiting.is_alive(), "wait_for has ended"
        worker.execute("SELECT jobqueue.complete(id, attempts) FROM jobqueue.claim(types => ARRAY['waited'])")
        waiting.join()
    return status == ["completed"]


def listen():
    with pooled() as listener, pooled() as conn, direct() as other:
        for connection in listener, other:
            connection.execute("LISTEN task_queue")
        conn.execute("SELECT jobqueue.enqueue('heard')")
        assert hears(other, 60)
        return hears(listener, 60 if sys.argv[2] == "session" else 1)


def hears(conn, seconds):
    return any(True for _ in conn.notifies(timeout=seconds, stop_after=1))


CHECKS = {
    "one statement each": one_by_one,
    "with your own writes": transactions,
    "`wait_for`": wait_for,
    "`LISTEN task_queue`": listen,
}


def main(page, mode):
    lines = iter(open(page, encoding="utf-8"))
    columns = next(line for line in lines if re.match(r"\| \| session", line)).split("|")
    column = [name.strip() for name in columns].index(mode)
    next(lines)
    done = set()
    for line in lines:
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) == 1 or not cells[1]:
            break
        check = next((check for words, check in CHECKS.items() if words in cells[1]), None)
        assert check, f"nothing checks: {cells[1]}"
        expected = {"yes": True, "no": False}[cells[column].split(":")[0]]
        assert check() == expected, f"in mode {mode}: {cells[1]}: not {cells[column]}"
        done.add(check)
    assert len(done) == len(CHECKS), done


main(*sys.argv[1:])
