"""The load: handlers, clients that enqueue in every way there is, and workers outside the server."""
import json
import random
import threading
import time

import psycopg2

from ledger import Entry
from server import is_lost

SCHEMA = """
CREATE EXTENSION jobqueue;
CREATE ROLE alice LOGIN;
CREATE ROLE bob;
CREATE ROLE producer LOGIN;
CREATE ROLE carrier LOGIN;
SELECT jobqueue.grant_access('alice', 'producer');
SELECT jobqueue.grant_access('bob', 'producer');
SELECT jobqueue.grant_access('producer', 'producer');
SELECT jobqueue.grant_access('producer', 'manager');
SELECT jobqueue.grant_access('carrier', 'consumer');

-- What handlers do, exactly once each.
CREATE TABLE effects (token text CONSTRAINT effects_once PRIMARY KEY, task bigint NOT NULL, attempt integer NOT NULL,
    pid integer NOT NULL DEFAULT pg_backend_pid(), at timestamptz NOT NULL DEFAULT clock_timestamp());
-- What a procedure has committed midway, at least once for a task, exactly once for an attempt.
CREATE TABLE steps (token text, attempt integer, step integer,
    CONSTRAINT steps_once PRIMARY KEY (token, attempt, step));
-- Of workers outside, in one transaction with complete().
CREATE TABLE outside_effects (token text CONSTRAINT outside_effects_once PRIMARY KEY);
CREATE TABLE source (token text PRIMARY KEY);
CREATE TRIGGER changed AFTER INSERT ON source FOR EACH ROW EXECUTE FUNCTION jobqueue.enqueue_row('row');
GRANT INSERT ON effects, steps TO alice, bob;
GRANT INSERT ON source TO producer;
GRANT INSERT ON outside_effects TO carrier;
"""

# %(version)s makes the text another one each time a function is replaced
FUNCTIONS = """
CREATE OR REPLACE FUNCTION quick(payload jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$ -- %(version)s
DECLARE
    name text := coalesce(payload->>'token', payload->'new'->>'token');
BEGIN
    INSERT INTO public.effects (token, task, attempt) SELECT name, t.id, t.attempts FROM jobqueue.current_task() t;
    PERFORM pg_sleep((payload->>'sleep')::float8);
    RETURN jsonb_build_object('done', name);
END $$;

CREATE OR REPLACE FUNCTION work(task jobqueue.tasks) RETURNS jsonb LANGUAGE plpgsql AS $$ -- %(version)s
DECLARE
    name text := task.payload->>'token';
BEGIN
    INSERT INTO public.effects (token, task, attempt) VALUES (name, task.id, task.attempts);
    IF task.payload ? 'child' THEN
        PERFORM jobqueue.enqueue('quick', jsonb_build_object('token', name || '/child'), max_attempts => 200);
    END IF;
    IF task.payload ? 'catches' THEN
        BEGIN
            UPDATE public.effects SET attempt = 1 / 0 WHERE token = name;
        EXCEPTION WHEN insufficient_privilege OR division_by_zero THEN
            NULL;
        END;
    END IF;
    PERFORM pg_sleep((task.payload->>'sleep')::float8);
    IF task.attempts <= (task.payload->>'fails')::integer THEN
        RAISE EXCEPTION 'fails as it was told';
    END IF;
    RETURN jsonb_build_object('done', name);
END $$;

CREATE OR REPLACE PROCEDURE steps(task jobqueue.tasks) LANGUAGE plpgsql AS $$ -- %(version)s
BEGIN
    INSERT INTO public.steps VALUES (task.payload->>'token', task.attempts, 1);
    COMMIT;
    PERFORM pg_sleep((task.payload->>'sleep')::float8);
    INSERT INTO public.steps VALUES (task.payload->>'token', task.attempts, 2);
    COMMIT;
    INSERT INTO public.effects (token, task, attempt) VALUES (task.payload->>'token', task.id, task.attempts);
END $$;
"""

HANDLERS = {
    'quick': ('quick(jsonb)', 'default', 'alice'),
    'row': ('quick(jsonb)', 'default', 'alice'),
    'work': ('work(jobqueue.tasks)', 'second', 'bob'),
    'steps': ('steps(jobqueue.tasks)', 'second', 'bob'),
}

# Producers slow down when this many tasks wait, so that the run does not end too late.
BACKLOG = 600

# So many that only an error of ours uses them up.
MAX_ATTEMPTS = 200


def register(types=tuple(HANDLERS), queue=None):
    """The statement that registers these types."""
    return 'SET client_min_messages = warning; ' + '; '.join(
        f"SELECT jobqueue.register_handler('{kind}', '{HANDLERS[kind][0]}', queue => '{queue or HANDLERS[kind][1]}', "
        f"run_as => '{HANDLERS[kind][2]}', max_attempts => {MAX_ATTEMPTS})" for kind in types)


class Load:
    """All clients together."""

    def __init__(self, cluster, ledger, seed, producers, workers):
        self.cluster, self.ledger = cluster, ledger
        self.backlog = 0
        self.stopping = threading.Event()   # producers: add no more tasks
        self.calming = threading.Event()    # workers outside: no more accidents
        self.ending = threading.Event()     # workers outside: end
        self.producers = [Producer(self, f'producer{n}', seed) for n in range(1, producers + 1)]
        self.workers = [Carrier(self, f'carrier{n}', seed) for n in range(1, workers + 1)]
        self.workers.append(ByHand(self, 'by hand', seed))
        self.watcher = threading.Thread(target=self.watch, name='watcher', daemon=True)

    def start(self):
        for thread in [*self.producers, *self.workers, self.watcher]:
            thread.start()

    def watch(self):
        while not self.ending.is_set():
            try:
                self.backlog = self.cluster.ask(
                    'SELECT count(*) FROM (SELECT FROM jobqueue.tasks_live LIMIT 5000) t')[0][0]
            except (psycopg2.Error, RuntimeError):
                pass
            self.ending.wait(0.3)

    def join(self, threads, what, seconds=60):
        deadline = time.monotonic() + seconds
        for thread in threads:
            thread.join(max(0.1, deadline - time.monotonic()))
            if thread.is_alive():
                self.ledger.report(f'{what} {thread.name} does not end: {thread.doing}')


class Client(threading.Thread):
    """A program with a connection, which it loses now and then."""
    user = 'postgres'

    def __init__(self, load, name, seed):
        super().__init__(name=name, daemon=True)
        self.load, self.ledger = load, load.ledger
        self.random = random.Random(f'{seed} {name}')
        self.connection = self.cursor = None
        self.doing = ''

    def run(self):
        while not self.is_over():
            try:
                self.work()
            except psycopg2.Error as error:
                self.lost(error)
            except RuntimeError as error:
                self.ledger.report(f'{self.name}: {error}')
                return
            except Exception as error:  # of this program: the test is void
                self.ledger.report(f'{self.name} stumbled: {error!r}')
                raise
        self.disconnect()

    def execute(self, statement, arguments=None):
        if self.connection is None:
            self.connection = self.load.cluster.connect(self.user)
            self.cursor = self.connection.cursor()
        self.doing = statement
        self.cursor.execute(statement, arguments)
        self.doing = ''
        return self.cursor.fetchall() if self.cursor.description else []

    def disconnect(self):
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def lost(self, error):
        """After an error: whatever was not committed is rolled back."""
        if self.connection is not None and not is_lost(error, self.connection):
            self.ledger.count(f'errors seen by clients: {error.pgcode} {str(error).splitlines()[0][:80]}')
            if error.pgcode.startswith('XX'):
                self.ledger.report(f'{self.name}: {error.pgcode} {error} in {self.doing}', f'client {error.pgcode}')
        else:
            self.ledger.count('connections lost')
        self.disconnect()

    def replicated(self):
        """A commit whose wait for the standby was cut short is acknowledged, with a warning."""
        doubt = any('might not have been replicated' in notice for notice in self.connection.notices)
        del self.connection.notices[:]
        return not doubt


class Producer(Client):
    user = 'producer'
    MODES = {
        'one': 30,
        'plain': 10,
        'many': 8,
        'insert_select': 3,
        'row': 8,
        'rolled_back': 6,
        'savepoints': 8,
        'prepared': 8,
        'outside': 20,
        'by_hand': 6,
        'cancelled': 5,
    }

    def __init__(self, load, name, seed):
        super().__init__(load, name, seed)
        self.serial = 0

    def is_over(self):
        return self.load.stopping.is_set()

    def work(self):
        mode = self.random.choices(list(self.MODES), self.MODES.values())[0]
        getattr(self, mode)()
        time.sleep(self.random.uniform(0, 0.01) + (0.5 if self.load.backlog > BACKLOG else 0))

    def token(self, entry):
        self.serial += 1
        token = f'{self.name}-{self.serial}'
        self.ledger.add(token, entry)
        return token

    def task(self, kind=None):
        """Some task for a handler: its token, type and payload."""
        rnd = self.random
        kind = kind or rnd.choices(['quick', 'work', 'steps'], [60, 30, 6])[0]
        payload, entry = {}, Entry(kind)
        if kind == 'work':
            entry.child = rnd.random() < 0.3
            entry.doomed = rnd.random() < 0.03
            payload['sleep'] = rnd.choice([0, 0, 0.005, 0.02, 0.1, rnd.uniform(0, 1)])
            payload['fails'] = 1000000 if entry.doomed else rnd.choice([0] * 12 + [1, 2])
            if entry.child:
                payload['child'] = True
            if rnd.random() < 0.3:
                payload['catches'] = True
        elif kind == 'steps':
            payload['sleep'] = rnd.uniform(0, 0.2)
        payload['token'] = self.token(entry)
        return payload['token'], kind, payload

    def options(self, payload):
        rnd = self.random
        delay = f'{rnd.uniform(0, 1):.3f} s' if rnd.random() < 0.1 else None
        queue = rnd.choice(['default', 'second', 'third']) if rnd.random() < 0.1 else None
        return {'priority': rnd.choice([0] * 8 + [-1, 5]), 'delay': delay, 'queue': queue,
                'max_attempts': 1 if payload.get('fails', 0) > 2 else MAX_ATTEMPTS}

    def enqueue(self, kind=None):
        """Returns token and id."""
        token, kind, payload = self.task(kind)
        return token, self.execute(
            'SELECT jobqueue.enqueue(%(type)s, %(payload)s, queue => %(queue)s, priority => %(priority)s, '
            'delay => %(delay)s, max_attempts => %(max_attempts)s)',
            {'type': kind, 'payload': json.dumps(payload), **self.options(payload)})[0][0]

    def commit(self, tokens, statement='COMMIT'):
        """The tasks of these tokens are there if, and only if, the server says so."""
        self.ledger.decide(tokens, 'unknown')
        try:
            rows = self.execute(statement)
        except psycopg2.Error as error:
            if not is_lost(error, self.connection):
                self.ledger.decide(tokens, 'never')
            raise
        if statement == 'COMMIT' and self.cursor.statusmessage != 'COMMIT':
            self.ledger.decide(tokens, 'never')
        elif self.replicated():
            self.ledger.decide(tokens, 'must')
        return rows

    def one(self):
        if self.random.random() < 0.5:
            self.execute('BEGIN')
            token, _ = self.enqueue()
            self.commit([token])
        else:
            token, kind, payload = self.task('quick')
            self.execute('SELECT 1')  # so that the next statement has a connection
            self.commit([token], self.cursor.mogrify(
                'SELECT jobqueue.enqueue(%s, %s)', (kind, json.dumps(payload))).decode())

    def plain(self):
        """Adds tasks by INSERT, some of them in groups."""
        self.execute('BEGIN')
        tokens = []
        for _ in range(self.random.choice([1, 1, 3])):
            token, kind, payload = self.task('quick')
            tokens.append(token)
            self.execute('INSERT INTO jobqueue.tasks (type, payload, max_attempts) VALUES (%s, %s, %s)',
                         (kind, json.dumps(payload), MAX_ATTEMPTS))
        self.commit(tokens)

    def many(self):
        tasks = [self.task('quick') for _ in range(self.random.choice([2, 5, 20, 100]))]
        self.execute('BEGIN')
        self.execute("SELECT count(*) FROM jobqueue.enqueue_many('quick', %s::jsonb[])",
                     ([json.dumps(task[2]) for task in tasks],))
        self.commit([task[0] for task in tasks])

    def insert_select(self):
        tasks = [self.task('quick') for _ in range(self.random.choice([1, 100]))]
        self.execute('BEGIN')
        self.execute('INSERT INTO jobqueue.tasks (type, payload, priority) SELECT *, 1 FROM unnest(%s, %s::jsonb[])',
                     ([kind for _, kind, _ in tasks], [json.dumps(payload) for _, _, payload in tasks]))
        self.commit([task[0] for task in tasks])

    def row(self):
        """A trigger enqueues."""
        token = self.token(Entry('row'))
        self.execute('BEGIN')
        self.execute('INSERT INTO source VALUES (%s)', (token,))
        self.commit([token])

    def rolled_back(self):
        self.execute('BEGIN')
        for _ in range(self.random.randint(1, 5)):
            self.enqueue()
        time.sleep(self.random.uniform(0, 0.05))
        self.execute('ROLLBACK')
        self.ledger.count('transactions rolled back')

    def savepoints(self):
        self.execute('BEGIN')
        tokens = [self.enqueue()[0]]
        for _ in range(self.random.randint(1, 3)):
            self.execute('SAVEPOINT s')
            token, _ = self.enqueue()
            if self.random.random() < 0.5:
                self.execute('ROLLBACK TO s')
            else:
                self.execute('RELEASE s')
                tokens.append(token)
        self.commit(tokens)

    def prepared(self):
        """Two-phase commit: from the acknowledged PREPARE on nothing may be lost, and the client decides."""
        self.execute('BEGIN')
        tokens = [self.enqueue()[0] for _ in range(self.random.randint(1, 3))]
        name = f'torture {tokens[0]}'
        commits = self.random.random() < 0.7
        pause = self.random.choice([0, 0, 0.1, self.random.uniform(0, 3)])
        phase = 'preparing'
        sure = False  # whether a standby has it, too
        while True:
            try:
                if phase == 'preparing':
                    self.execute('PREPARE TRANSACTION %s', (name,))
                    phase = 'prepared'
                    sure = self.replicated()
                    time.sleep(pause)
                found = self.execute('SELECT 1 FROM pg_prepared_xacts WHERE gid = %s', (name,))
                if not found:
                    break
                if phase == 'unknown':
                    phase = 'prepared'
                before, phase = phase, 'deciding'
                self.execute(('COMMIT' if commits else 'ROLLBACK') + ' PREPARED %s', (name,))
                phase = 'decided'
                sure = self.replicated()
                break
            except psycopg2.Error as error:
                alive = not is_lost(error, self.connection)
                if alive and phase == 'preparing':
                    raise
                if alive and phase == 'deciding':
                    phase = before  # it is busy: the session that lost it has not ended yet
                elif phase == 'preparing':
                    phase = 'unknown'
                self.disconnect()
                time.sleep(0.1)
        if phase == 'prepared' and sure:
            self.ledger.report(f'lost: the prepared transaction "{name}" with {tokens}', 'prepared')
        if commits and phase in ('deciding', 'decided'):
            self.ledger.decide(tokens, 'must' if sure else 'unknown')
        elif phase in ('deciding', 'decided') and not sure:
            self.ledger.decide(tokens, 'unknown')
        self.ledger.count('prepared transactions')

    def outside(self):
        """Adds tasks for the workers outside."""
        self.execute('BEGIN')
        tokens = []
        for _ in range(self.random.choice([1, 1, 5])):
            few = self.random.random() < 0.1
            kind = self.random.choice(['parcel', 'parcel', 'exact'])
            tokens.append(self.token(Entry(kind, few=few)))
            self.execute("SELECT jobqueue.enqueue(%s, %s, queue => 'outside', max_attempts => %s)",
                         (kind, json.dumps({'token': tokens[-1]}), 3 if few else MAX_ATTEMPTS))
        self.commit(tokens)

    def by_hand(self):
        token = self.token(Entry('hand'))
        self.execute('BEGIN')
        self.execute("INSERT INTO jobqueue.tasks (type, payload, queue) VALUES ('hand', %s, 'by_hand')",
                     (json.dumps({'token': token}),))
        self.commit([token])

    def cancelled(self):
        self.execute('BEGIN')
        token, number = self.enqueue('work')
        self.commit([token])
        time.sleep(self.random.choice([0, 0, 0.05, 0.5]))
        entry = self.ledger.entries[token]
        entry.cancelled = 'unknown'
        answer = self.execute('SELECT jobqueue.cancel(%s)', (number,))[0][0]
        if self.replicated():
            entry.cancelled = answer
        self.ledger.count('cancelled' if answer else 'cancelled too late')


class Worker(Client):
    user = 'carrier'

    def is_over(self):
        return self.load.ending.is_set()


class Carrier(Worker):
    """A worker outside: claims, and completes, fails, gives back, comes too late, or is never heard of again."""
    ACCIDENTS = {'complete': 40, 'complete_many': 15, 'fail': 10, 'release': 5, 'late': 6, 'extend': 8, 'vanish': 16}

    def work(self):
        rnd = self.random
        calm = self.load.calming.is_set()
        asked_at = time.monotonic()
        tasks = self.execute(
            "SELECT id, attempts, payload->>'token', type FROM jobqueue.claim('outside', max_tasks => %s, lease => %s)",
            (rnd.choice([1, 1, 5, 20]), f'{rnd.uniform(0.5, 3):.3f} s'))
        self.ledger.count('claims outside', len(tasks))
        for _, attempt, token, _ in tasks:
            self.ledger.claimed(token, attempt, asked_at)
        if not tasks:
            time.sleep(0.05)
        while tasks:
            what = 'complete' if calm else rnd.choices(list(self.ACCIDENTS), self.ACCIDENTS.values())[0]
            if what == 'vanish':
                self.disconnect()
                self.ledger.count('workers outside that vanished')
                return
            if what == 'complete_many':
                self.complete_many([task for task in tasks if task[3] == 'parcel'])
                tasks = [task for task in tasks if task[3] != 'parcel']
            else:
                getattr(self, what)(*tasks.pop())

    def complete(self, number, attempt, token, kind):
        if kind == 'exact':
            return self.complete_exactly(number, attempt, token)
        if self.execute('SELECT jobqueue.complete(%s, %s)', (number, attempt))[0][0] and self.replicated():
            self.ledger.completed(token, attempt)

    def complete_exactly(self, number, attempt, token):
        """The work, and the record that it is done, are one transaction."""
        self.execute('BEGIN')
        if self.execute('SELECT jobqueue.complete(%s, %s)', (number, attempt))[0][0]:
            self.execute('INSERT INTO outside_effects VALUES (%s)', (token,))
            self.execute('COMMIT')
            if self.replicated():
                self.ledger.completed(token, attempt)
        else:
            self.execute('ROLLBACK')

    def complete_many(self, tasks):
        tokens = {task[0]: task for task in tasks}
        done = self.execute('SELECT * FROM jobqueue.complete_many(%s::bigint[], %s::integer[])',
                            ([task[0] for task in tasks], [task[1] for task in tasks]))
        if self.replicated():
            for (number,) in done:
                self.ledger.completed(tokens[number][2], tokens[number][1])

    def fail(self, number, attempt, token, _):
        status = self.execute("SELECT jobqueue.fail(%s, %s, 'dropped it', retry_in => %s)",
                              (number, attempt, self.random.choice(['0', '0.3 s'])))[0][0]
        if status == 'failed' and self.replicated():
            self.ledger.entries[token].failed = True

    def release(self, number, attempt, *_):
        self.execute('SELECT jobqueue.release(%s, %s)', (number, attempt))

    def extend(self, number, attempt, token, kind):
        if self.execute("SELECT jobqueue.extend_lease(%s, %s, '2 s')", (number, attempt))[0][0]:
            self.complete(number, attempt, token, kind)

    def late(self, *task):
        time.sleep(self.random.uniform(0, 3))
        self.complete(*task)


class ByHand(Worker):
    """A worker of the usual kind: claims with UPDATE, and finishes in the same transaction."""

    def work(self):
        self.execute('BEGIN')
        tasks = self.execute(
            "UPDATE jobqueue.tasks SET status = 'processing', processed_at = now() WHERE id = (SELECT id FROM"
            " jobqueue.tasks WHERE status = 'pending' AND queue = 'by_hand' ORDER BY created_at LIMIT 1 FOR UPDATE SKIP"
            " LOCKED) RETURNING id, payload->>'token'"
        )
        for number, token in tasks:
            self.execute("UPDATE jobqueue.tasks SET status = 'completed' WHERE id = %s", (number,))
            self.execute('COMMIT')
            if self.replicated():
                self.ledger.completed(token, 0)
        if not tasks:
            self.execute('ROLLBACK')
            time.sleep(0.1)
