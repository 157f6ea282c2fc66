#!/usr/bin/env python3
"""What is measured here by SQL alone: jobqueue, and what the machine can do at most. As a program, prints jobqueue's as
JSON, for jobqueue.mjs.

A peer has the fields of the harness that runs the rivals (its README says more): setup and fill in psql, $n tasks;
either start and stop, for workers in the server, or drain and cycle, a step of a client; remaining and consumed,
numbers. """

import json
import os

PAYLOAD = '{"to":"test@example.com"}'
PAYLOADS = f"ARRAY(SELECT '{PAYLOAD}'::jsonb FROM generate_series(1, $n))"
BATCH_SIZE = 1000  # of batch handlers: as many as PgQ's consumer gets in the harness
BACKLOG = 12000  # that producers keep at most, in sustained runs: the harness gives rivals 10,000 and 2,000 more

with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), 'setup.sql'), encoding='utf-8') as file:
    SETUP = file.read()

# The key is in the queue that handlers of the server take from; a type without handler is for workers outside.
CLAIM = ('SELECT array_agg(id) AS ids, array_agg(attempts) AS attempts, jsonb_agg(payload) AS p '
         'FROM jobqueue.claim(max_tasks => 100) HAVING count(*) > 0 \\gset\n')
COMPLETE = 'SELECT count(*) FROM jobqueue.complete_many(:ids::bigint[], :attempts::int[]);\n'
COMPLETE_AND_CLAIM = (
    "SELECT coalesce(array_agg(id), '{}') AS ids, coalesce(array_agg(attempts), '{}') AS attempts, jsonb_agg(payload)"
    " AS p FROM jobqueue.complete_and_claim(:ids::bigint[], :attempts::int[], max_tasks => 100) \\gset\n"
)


def enqueue_many(type_, count):
    return f"SELECT count(*) FROM jobqueue.enqueue_many('{type_}', {PAYLOADS.replace('$n', str(count))});\n"


def jobqueue(type_):
    return {
        'setup': SETUP,
        'fill': f"INSERT INTO jobqueue.tasks (type, payload) SELECT '{type_}', '{PAYLOAD}' FROM generate_series(1, $n);"
                ' VACUUM ANALYZE;',
        'enqueue1': f"SELECT jobqueue.enqueue('{type_}', '{PAYLOAD}');\n",
        'enqueueK': enqueue_many(type_, 1000), 'K': 1000,
        'produce1': f"SELECT bench.wait_below({BACKLOG});\nSELECT jobqueue.enqueue('{type_}', '{PAYLOAD}');\n",
        'produceK': f'SELECT bench.wait_below({BACKLOG});\n' + enqueue_many(type_, 100), 'produceKJobs': 100,
        'start': 'SELECT jobqueue.resume_queue(NULL);', 'stop': 'SELECT jobqueue.pause_queue(NULL);',
        'remaining': 'SELECT bench.remaining()', 'consumed': 'SELECT bench.lowest()',
        'latEnqueue': "SELECT jobqueue.enqueue('start', jsonb_build_object('i', $1::int))",
        'latStarted': 'SELECT i, extract(epoch FROM at) * 1000 AS ms FROM bench.started',
    }


def outside(step, tasks):
    peer = jobqueue('outside')
    for field in ('start', 'stop', 'produce1', 'produceK', 'produceKJobs', 'latEnqueue', 'latStarted'):
        del peer[field]
    peer['setup'] += 'SELECT jobqueue.resume_queue(NULL);'
    return peer | {'drain': step, 'drainJobs': tasks, 'exact': True,
                   'cycle': enqueue_many('outside', tasks) + step, 'cycleJobs': tasks}


JOBQUEUE = {
    'jobqueue': jobqueue('nothing'),
    'jobqueue_batch': jobqueue('batch') | {
        'setup': SETUP + "SELECT jobqueue.register_handler('batch', 'bench.nothing_batch(jsonb[])', "
                         f"run_as => 'bench_worker', batch_size => {BATCH_SIZE});"},
    'jobqueue_outside': outside(CLAIM + COMPLETE, 100),
    'jobqueue_outside_fused': outside(CLAIM + COMPLETE_AND_CLAIM * 9 + COMPLETE, 1000),
}

# pgmq's documented pattern, read and delete in batches, written out in plain SQL
PGMQ_TABLE = """DROP TABLE IF EXISTS q;
CREATE TABLE q (msg_id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, read_ct integer NOT NULL DEFAULT 0,
    enqueued_at timestamptz NOT NULL DEFAULT now(), vt timestamptz NOT NULL, message jsonb);
CREATE INDEX ON q (vt);"""
PGMQ_SEND = f"INSERT INTO q (vt, message) SELECT clock_timestamp(), '{PAYLOAD}' FROM generate_series(1, $n);"
PGMQ_STEP = """WITH next AS (SELECT msg_id FROM q WHERE vt <= clock_timestamp() ORDER BY msg_id \
LIMIT 100 FOR UPDATE SKIP LOCKED), \
taken AS (UPDATE q SET vt = clock_timestamp() + interval '30 seconds', read_ct = read_ct + 1 FROM next \
WHERE q.msg_id = next.msg_id RETURNING q.msg_id, q.message) \
SELECT array_agg(msg_id) AS ids, jsonb_agg(message) AS p FROM taken HAVING count(*) > 0 \\gset
DELETE FROM q WHERE msg_id = ANY(:ids::bigint[]);
"""

# The limit, as in the harness, for where that is not there: claim and completion in one statement, and nothing is run.
TASKS_TABLE = """DROP TABLE IF EXISTS tasks;
CREATE TABLE tasks (id serial PRIMARY KEY, type text NOT NULL, payload jsonb, status text NOT NULL DEFAULT 'pending',
    created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now(),
    processed_at timestamptz);
CREATE INDEX tasks_pending ON tasks (created_at) WHERE status = 'pending';"""
TASKS_INSERT = (f"INSERT INTO tasks (type, payload, created_at) SELECT 'send_email', '{PAYLOAD}', clock_timestamp() "
                'FROM generate_series(1, $n);')
TASKS_STEP = ("DELETE FROM tasks WHERE id = ANY(ARRAY(SELECT id FROM tasks WHERE status = 'pending' "
              'ORDER BY created_at LIMIT 500 FOR UPDATE SKIP LOCKED)) RETURNING id, type, payload;\n')

PLAIN_SQL = {
    'delret500': {
        'setup': TASKS_TABLE, 'fill': TASKS_INSERT + ' VACUUM ANALYZE tasks;',
        'drain': TASKS_STEP, 'drainJobs': 500, 'exact': True,
        'cycle': TASKS_INSERT.replace('$n', '500') + '\n' + TASKS_STEP, 'cycleJobs': 500,
        'remaining': 'SELECT count(*) FROM tasks',
    },
    'pgmq_sql': {
        'setup': PGMQ_TABLE, 'fill': PGMQ_SEND + ' VACUUM ANALYZE q;',
        'drain': PGMQ_STEP, 'drainJobs': 100, 'exact': True,
        'cycle': PGMQ_SEND.replace('$n', '100') + '\n' + PGMQ_STEP, 'cycleJobs': 100,
        'remaining': 'SELECT count(*) FROM q',
    },
}

PEERS = JOBQUEUE | PLAIN_SQL

if __name__ == '__main__':
    print(json.dumps(JOBQUEUE | {'pgmq_sql': PLAIN_SQL['pgmq_sql']}))
