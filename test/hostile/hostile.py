#!/usr/bin/env python3
"""A hostile tenant's hour. Three roles, a producer, a consumer and a manager of one queue, do everything that could
hurt a tenant beside them, all at once. The victim has delayed tasks, schedules, ordered groups and rates in another
queue. What it was promised is watched all the time: its tasks start on time, our processes stay small, and the log
does not fill. See scripts/hostile. """

import argparse
import os
import re
import signal
import sys
import threading
import time
from collections import Counter

import psycopg2

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'torture'))
from server import Cluster, is_ours  # noqa: E402 pylint: disable=wrong-import-position

# What the victim is promised: 99 % of the tasks that were due in such a window start in time. On a busy machine a woken
# process has to wait. For each process that a task goes through, the delay of a session that only sleeps is allowed.
WINDOW, MOST_LATE, WAKE_UPS = 10, 1.0, 3
MOST_MEMORY = 200 << 20  # of each process of ours, beside shared memory
MOST_LOG = 1 << 20       # bytes that our processes write

ROLES = """
CREATE EXTENSION jobqueue;
CREATE ROLE victim LOGIN;
CREATE ROLE producer LOGIN;
CREATE ROLE consumer LOGIN;
CREATE ROLE manager LOGIN CREATEDB;
GRANT CREATE ON SCHEMA public TO victim, manager;
SELECT jobqueue.grant_access('victim', level, 'good') FROM unnest('{producer,consumer,manager}'::text[]) level;
SELECT jobqueue.grant_access('producer', 'producer', 'bad');
SELECT jobqueue.grant_access('consumer', 'consumer', 'bad');
SELECT jobqueue.grant_access('consumer', 'producer', 'bad');
SELECT jobqueue.grant_access('manager', level, 'bad') FROM unnest('{producer,consumer,manager}'::text[]) level;
GRANT DELETE ON jobqueue.tasks TO manager;
"""

VICTIM = """
CREATE TABLE begun (kind text NOT NULL, task bigint NOT NULL, grp text, n bigint, due timestamptz NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE FUNCTION good(task jobqueue.tasks) RETURNS void LANGUAGE sql AS $$
    INSERT INTO public.begun (kind, task, grp, n, due) VALUES (task.payload->>'kind', task.id, task.group_key,
        (task.payload->>'n')::bigint,
        coalesce((task.metadata->>'scheduled_for')::timestamptz, task.run_at, task.created_at))
$$;
SELECT jobqueue.register_handler(type, 'good(jobqueue.tasks)', queue => 'good')
    FROM unnest('{plain,ordered}'::text[]) type;
SELECT jobqueue.register_handler('rated', 'good(jobqueue.tasks)', queue => 'good', rate_limit => 40,
    rate_period => '1 s');
SELECT jobqueue.schedule('victim ' || n, '1 second', 'plain', '{"kind": "schedule"}', queue => 'good')
    FROM generate_series(1, 3) n;
"""

MANAGER = """
CREATE FUNCTION bad(payload jsonb) RETURNS void LANGUAGE plpgsql
    AS $$BEGIN PERFORM pg_sleep(coalesce((payload->>'sleep')::float8, 0)); END$$;
CREATE FUNCTION bad_batch(payloads jsonb[]) RETURNS void LANGUAGE plpgsql
    AS $$BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); END$$;
CREATE FUNCTION bad_sleeps(payloads jsonb[]) RETURNS void LANGUAGE plpgsql AS $$BEGIN PERFORM pg_sleep(5); END$$;
SELECT jobqueue.register_handler('bad', 'bad(jsonb)', queue => 'bad');
SELECT jobqueue.register_handler('suicide', 'bad_batch(jsonb[])', queue => 'bad', batch_size => 100);
SELECT jobqueue.register_handler('sleeper', 'bad_sleeps(jsonb[])', queue => 'bad', batch_size => 1000);
"""


class Attack(threading.Thread):
    """Does one thing again and again; what is refused is counted."""

    def __init__(self, run, user, name, pause, statements):
        super().__init__(name=name, daemon=True)
        self.hostile, self.user, self.pause, self.statements = run, user, pause, statements
        self.rounds, self.refused = 0, Counter()

    def run(self):
        connection = None
        while not self.hostile.over.is_set():
            for statement in self.statements:
                try:
                    if connection is None or connection.closed:
                        connection = self.hostile.cluster.connect(self.user)
                        with connection.cursor() as cursor:
                            cursor.execute("SET statement_timeout = '60s'; SET client_min_messages = error")
                    with connection.cursor() as cursor:
                        if callable(statement):
                            statement(cursor)
                        else:
                            cursor.execute(statement)
                except psycopg2.Error as error:
                    self.refused[error.pgcode] += 1
                    if error.pgcode is None:
                        connection = None
                except RuntimeError:
                    return
                if self.hostile.over.is_set():
                    return
            self.rounds += 1
            self.hostile.over.wait(self.pause)


def holds(statement, seconds, over):
    """A transaction that stays open."""
    def run(cursor):
        cursor.execute('BEGIN')
        cursor.execute(statement)
        over.wait(seconds)
        cursor.execute('ROLLBACK')
    return run


def attacks(run):
    """All attacks, each with its number in the list of faults that it comes from."""
    over = run.over
    mega = 'a' * 1000000
    return [
        Attack(
            run,
            'manager',
            'C3 schedules of a second',
            5,
            [
                "SELECT count(jobqueue.schedule('bad ' || n, '1 second', 'nobody', queue => 'bad', on_overlap =>"
                " (ARRAY['allow','queue','skip'])[1 + n % 3])) FROM generate_series(1, 5000) n"
            ],
        ),
        Attack(
            run,
            'consumer',
            'C2 claims of groups',
            1,
            [
                (
                    "SELECT count(jobqueue.enqueue('held', queue => 'bad', group_key => random()::text)) FROM"
                    " generate_series(1, 2000)"
                ),
                "SELECT count(*) FROM jobqueue.claim('bad', 1000, '1 day', '{held}')",
                "SELECT count(*) FROM jobqueue.claim('bad', 1000, '200 years', '{held}')",
            ],
        ),
        Attack(
            run,
            'manager',
            'C2 rates',
            5,
            [
                "SELECT jobqueue.alter_queue('bad', rate_limit => 1, rate_period => '10000 days')",
                "SELECT jobqueue.alter_queue('bad', rate_limit => NULL)",
            ],
        ),
        Attack(
            run,
            'consumer',
            'C4 finished by hand',
            10,
            [
                (
                    "SELECT count(*) FROM generate_series(1, 5), jobqueue.enqueue_many('by hand',"
                    " array_fill('{}'::jsonb, '{10000}'), queue => 'bad')"
                ),
                "UPDATE jobqueue.tasks SET status = 'completed' WHERE type = 'by hand' AND status = 'pending'",
            ],
        ),
        Attack(
            run,
            'manager',
            'C5 a batch ends its process',
            2,
            ["SELECT count(*) FROM jobqueue.enqueue_many('suicide', array_fill('{}'::jsonb, '{200}'), queue => 'bad')"],
        ),
        Attack(
            run,
            'producer',
            'C6 priorities',
            20,
            [
                "INSERT INTO jobqueue.tasks (type, queue, priority) SELECT 'bad', 'bad', n FROM generate_series(-32768,"
                " 32767) n"
            ],
        ),
        Attack(run, 'manager', 'C6 cleared', 30, ["SELECT jobqueue.purge_queue('bad')"]),
        Attack(
            run, 'producer', 'C6 plain inserts', 0.1, ["INSERT INTO jobqueue.tasks (type, queue) VALUES ('bad', 'bad')"]
        ),
        Attack(
            run,
            'manager',
            'C8 databases',
            15,
            ['CREATE DATABASE bad_copy TEMPLATE template_of_bad', 'DROP DATABASE bad_copy'],
        ),
        Attack(run, 'consumer', 'C9 a reader', 1, [holds('SELECT count(*) FROM jobqueue.tasks', 20, over)]),
        Attack(
            run,
            'consumer',
            'C13 locks what runs',
            0.5,
            [
                (
                    "SELECT count(*) FROM jobqueue.enqueue_many('sleeper', array_fill('{}'::jsonb, '{1000}'), queue =>"
                    " 'bad')"
                ),
                holds(
                    "SELECT count(*) FROM (SELECT FROM jobqueue.tasks WHERE status = 'processing' FOR UPDATE SKIP"
                    " LOCKED) t",
                    10,
                    over,
                ),
            ],
        ),
        Attack(
            run,
            'manager',
            'C11 ends its workers',
            3,
            [
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'manager' AND backend_type ="
                " 'jobqueue worker'"
            ],
        ),
        Attack(
            run,
            'manager',
            'C14 time zones',
            5,
            [
                (
                    "SELECT count(*) FROM generate_series(1, 300) n, LATERAL jobqueue.next_runs('* * * * *', 1, 'Zone'"
                    " || n)"
                ),
                (
                    "SELECT jobqueue.schedule('zone', '* * * * *', 'nobody', queue => 'bad', time_zone => 'Foo' ||"
                    " (random() * 1000)::int)"
                ),
            ],
        ),
        Attack(
            run,
            'manager',
            'D1 limits of the type of another',
            5,
            [
                "SELECT jobqueue.register_handler('outside', 'bad(jsonb)', queue => 'bad', max_running => 1, rate_limit"
                " => 1, rate_period => '1 hour')"
            ],
        ),
        Attack(
            run,
            'producer',
            'D3 a long group key',
            1,
            [
                "SELECT jobqueue.enqueue_flow(jsonb_build_object('a', jsonb_build_object('type', 'bad', 'queue', 'bad',"
                " 'group_key', repeat('x', 100000))))"
            ],
        ),
        Attack(
            run,
            'producer',
            'B2 long texts',
            1,
            [
                f"SELECT jobqueue.enqueue('{mega}', queue => 'bad', delay => '1 s')",
                f"INSERT INTO jobqueue.tasks (type, queue) VALUES ('{mega}', 'bad')",
            ],
        ),
        Attack(
            run,
            'consumer',
            'B2 long names of workers',
            1,
            [f"SELECT count(*) FROM jobqueue.claim('bad', 1, '1 s', '{{bad}}', '{mega}')"],
        ),
        Attack(
            run,
            'producer',
            'A5 large payloads',
            15,
            [
                "SELECT count(jobqueue.enqueue('bad', jsonb_build_object('x', repeat('x', 10000000)), 'bad')) FROM"
                " generate_series(1, 20)"
            ],
        ),
        Attack(
            run,
            'producer',
            'delayed tasks',
            5,
            ["SELECT count(jobqueue.enqueue('bad', queue => 'bad', delay => '5 s')) FROM generate_series(1, 5000)"],
        ),
        Attack(run, 'consumer', 'leases that end', 5, ["SELECT count(*) FROM jobqueue.claim('bad', 1000, '1 s')"]),
    ]


class Hostile:
    def __init__(self, options):
        self.options = options
        os.makedirs(options.directory)
        self.problems = []
        self.over = threading.Event()
        self.cluster = Cluster(options.bindir, options.directory, 'off', self.report, False)
        self.memory, self.memory_of = 0, ''
        self.wakings = {}  # how late a session that sleeps is woken, by window
        self.outside = Counter()

    def report(self, text):
        self.problems.append(text)
        print(f'PROBLEM: {text}', flush=True)

    def prepare(self):
        server = self.cluster.current
        server.init()
        server.configure("jobqueue.max_workers = 6\njobqueue.poll_interval = '5s'\n")
        server.start()
        ask = self.cluster.ask
        ask('CREATE DATABASE app', database='postgres')
        ask(ROLES)
        ask(VICTIM, user='victim')
        ask(MANAGER, user='manager')
        ask('CREATE DATABASE template_of_bad', database='postgres', user='manager')
        ask('CREATE EXTENSION jobqueue', database='template_of_bad')

    # The victim

    def produce(self):
        """Ten tasks of each kind a second."""
        n = 0
        connection = self.cluster.connect('victim')
        while not self.over.is_set():
            n += 1
            with connection.cursor() as cursor:
                cursor.execute(
                    """SELECT jobqueue.enqueue('plain', '{"kind": "plain"}', 'good'),
                    jobqueue.enqueue('plain', '{"kind": "delayed"}', 'good', delay => '0.5 s'),
                    jobqueue.enqueue('ordered', jsonb_build_object('kind', 'ordered', 'n', %s), 'good',
                        group_key => %s),
                    jobqueue.enqueue('rated', '{"kind": "rated"}', 'good'),
                    jobqueue.enqueue('outside', '{"kind": "outside"}', 'good')""",
                    (n, f'group {n % 5}'),
                )
            self.over.wait(0.1)
        connection.close()

    def consume(self):
        """The victim's worker outside, for a type that another role registers, too."""
        connection = self.cluster.connect('victim')
        while not self.over.is_set():
            with connection.cursor() as cursor:
                cursor.execute(
                    """INSERT INTO begun (kind, task, due) SELECT 'outside', id, created_at
                    FROM (SELECT c.id, c.created_at, jobqueue.complete(c.id, c.attempts)
                        FROM jobqueue.claim('good', 100, '1 min', '{outside}') c) c"""
                )
            self.over.wait(0.05)
        connection.close()

    def sleep(self):
        connection = self.cluster.connect()
        while not self.over.is_set():
            with connection.cursor() as cursor:
                began = time.time()
                cursor.execute('SELECT pg_sleep(0.05)')
                self.wakings.setdefault(int(began // WINDOW), []).append(time.time() - began - 0.05)
        connection.close()

    def watch_memory(self):
        while not self.over.is_set():
            try:
                for process in self.cluster.current.children('^jobqueue '):
                    with open(f'/proc/{process.pid}/status', encoding='ascii', errors='replace') as file:
                        found = re.search(r'RssAnon:\s*(\d+) kB', file.read())
                    if found and int(found[1]) * 1024 > self.memory:
                        self.memory, self.memory_of = int(found[1]) * 1024, process.title
            except OSError:
                pass
            self.over.wait(0.2)

    def judge(self):
        ask = self.cluster.ask
        windows = ask(f"""
            SELECT kind, floor(extract(epoch FROM due) / {WINDOW})::int,
                to_timestamp(floor(extract(epoch FROM due) / {WINDOW}) * {WINDOW})
                    - min(min(due)) OVER () AS since, count(*),
                percentile_cont(0.99) WITHIN GROUP (ORDER BY extract(epoch FROM at - due))::float8,
                max(extract(epoch FROM at - due))::float8
            FROM begun GROUP BY kind, floor(extract(epoch FROM due) / {WINDOW}) ORDER BY kind, 3""")
        worst = {}
        waking = {window: sorted(late)[len(late) * 99 // 100] for window, late in self.wakings.items()}
        print(
            'a session that only sleeps: the worst window has a 99th percentile of'
            f' {max(waking.values()) * 1000:.0f} ms'
        )
        for kind, window, since, count, late, latest in windows:
            if late > MOST_LATE + WAKE_UPS * waking.get(window, 0):
                self.report(
                    f'{kind}: of {count} tasks that were due {since} after the start, 1 % began {late:.2f} s late or'
                    ' more'
                )
            worst[kind] = max(worst.get(kind, (0, 0)), (late, latest))
        for kind, (late, latest) in worst.items():
            print(
                f'{kind}: the worst window has a 99th percentile of {late * 1000:.0f} ms, and a latest of'
                f' {latest * 1000:.0f} ms',
                flush=True,
            )
        for kind in {'plain', 'delayed', 'ordered', 'rated', 'outside', 'schedule'} - set(worst):
            self.report(f'{kind}: nothing has run')
        waiting = ask(
            "SELECT count(*), min(run_at) FROM jobqueue.tasks_live WHERE queue = 'good' AND run_at < now() - interval"
            " '2 s'"
        )
        if waiting[0][0]:
            self.report(
                f'{waiting[0][0]} tasks of the victim are due and have not begun, the first since {waiting[0][1]}'
            )
        twice = ask('SELECT count(*) - count(DISTINCT task) FROM begun')[0][0]
        if twice:
            self.report(f'{twice} tasks of the victim have run twice')
        unordered = ask(
            'SELECT count(*) FROM (SELECT n < lag(n) OVER (PARTITION BY grp ORDER BY at) AS wrong FROM begun WHERE grp'
            ' IS NOT NULL) o WHERE wrong'
        )[0][0]
        if unordered:
            self.report(f'{unordered} tasks of ordered groups began before an earlier one')
        charged = ask(
            "SELECT count(*) FROM jobqueue.tasks WHERE queue = 'good' AND (failures IS NOT NULL OR crashes > 0 OR"
            " status = 'failed')"
        )[0][0]
        if charged:
            self.report(f'{charged} tasks of the victim were charged something')
        if self.memory > MOST_MEMORY:
            self.report(f'{self.memory >> 20} MB in {self.memory_of}')
        print(f'memory: {self.memory >> 20} MB at most, in {self.memory_of}')

    def read_log(self):
        size, lines = 0, Counter()
        for line in self.cluster.current.log_lines():
            if is_ours(line):
                size += len(line)
                lines[re.sub(r'\d+', 'N', line[24:])[:110].strip()] += 1
            if re.search(r'PANIC:|TRAP:|was terminated by signal', line):
                self.report(f'in the log: {line.strip()[:200]}')
        for line, n in lines.most_common(8):
            print(f'--- in the log, {n} times: {line}')
        print(f'log: {size} bytes by processes of ours')
        if size > MOST_LOG:
            self.report(f'our processes have written {size} bytes of log')

    def run(self):
        try:
            self.prepare()
            threads = [
                threading.Thread(target=target, daemon=True)
                for target in (self.produce, self.consume, self.sleep, self.watch_memory)
            ]
            only = self.options.only
            fighters = (
                []
                if only == ['none']
                else [attack for attack in attacks(self) if not only or attack.name.split()[0] in only]
            )
            for thread in [*threads, *fighters]:
                thread.start()
            time.sleep(self.options.seconds)
            # tasks that are due get their time before the result is judged
            self.over.set()
            for thread in [*threads, *fighters]:
                thread.join(60)
            time.sleep(1.5)
            self.judge()
            for attack in fighters:
                print(
                    f'{attack.name}: {attack.rounds} rounds'
                    + ''.join(f', {n} times {code}' for code, n in attack.refused.items())
                )
        except (psycopg2.Error, RuntimeError) as error:
            self.report(f'it cannot go on: {error}')
        finally:
            self.cluster.giving_up.set()
            self.cluster.shut_down()
        self.read_log()
        print(
            'the victim got what it was promised' if not self.problems else f'{len(self.problems)} problems', flush=True
        )
        return 1 if self.problems else 0


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument('--bindir', required=True)
    parser.add_argument('--directory', required=True, help='for the server; is made')
    parser.add_argument('--seconds', type=float, default=3600)
    parser.add_argument('--only', default='', help='attacks, by the first word of their names; "none" for none at all')
    options = parser.parse_args()
    options.only = options.only.replace(',', ' ').split()
    return options


if __name__ == '__main__':
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(Hostile(arguments()).run())
