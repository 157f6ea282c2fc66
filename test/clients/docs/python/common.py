"""For the programs in Python."""

from contextlib import contextmanager


def sends():
    """What was sent, and the function that sends it."""
    sent = []
    return sent, sent.append


@contextmanager
def fails(error, text=""):
    try:
        yield
    except error as raised:
        assert text in str(raised), raised
    else:
        raise AssertionError(f"no {error.__name__}")


def the_task(conn, id):
    """The task as it should be. For every connection that has cursors."""
    cursor = conn.cursor()
    query = "SELECT status, attempts, payload ->> 'to', result ->> 'sent' FROM jobqueue.tasks WHERE id = %s"
    cursor.execute(query, [id])
    row = tuple(cursor.fetchone())
    assert row == ("completed", 1, "ann@example.org", "true"), row
    cursor.close()
