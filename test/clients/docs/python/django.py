# section: Django
import os
import sys
import types

import django.db
from django.conf import settings

from common import sends

# an application of one model
shop = types.ModuleType("shop")
shop.__path__ = [os.getcwd()]
sys.modules["shop"] = shop
database = {variable: os.environ["PG" + variable] for variable in ("HOST", "PORT", "USER")}
database |= {"ENGINE": "django.db.backends.postgresql", "NAME": os.environ["PGDATABASE"]}
settings.configure(INSTALLED_APPS=["shop"], DATABASES={"default": database}, USE_TZ=True, TIME_ZONE="UTC")
django.setup()
__name__ = "shop.models"

# BLOCK 2


def work():
    sent, send_mail = sends()
    # BLOCK 1
    assert sent == [{"to": "ann@example.org"}], sent

    task = Task.objects.get(id=task_id)
    assert (task.status, task.type, task.queue, task.attempts) == ("completed", "send_mail", "default", 1), task.status
    assert task.payload == {"to": "ann@example.org"} and task.result == {"sent": True}, task.payload
    assert task.created_at < task.finished_at and task.run_at is None

    # a producer may read it
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL ROLE clients_producer")
        cursor.execute("SELECT jobqueue.enqueue('check', '[1]')")
        check = cursor.fetchone()[0]
        assert Task.objects.get(id=check).status == "pending"
        cursor.execute("SELECT payload FROM jobqueue.tasks WHERE id = %s", [check])
        assert cursor.fetchone() == ("[1]",)
        transaction.set_rollback(True)


for _ in range(10):
    work()
# what migrations ask before they touch a table
assert not Task._meta.can_migrate(django.db.connection)
