"""SQL expressions with random values, by type and by the name of the argument or column they are for.

Everything is an expression that psql understands, and short: what is huge is made by the server (repeat, array_fill).
Bytes that are no UTF-8 are in the Python string as lone surrogates; encode() turns them into those bytes.
"""

ID_NAMES = {'id', 'ids', 'task', 'task_id', 'after'}
ATTEMPT_NAMES = {'attempt', 'attempts'}

# What a text argument of this name may sensibly be.
WORDS = {
    'type': ['ok', 'ok_task', 'nothing', 'divides', 'fails', 'sleeps', 'unhandled', 'elsewhere'],
    'queue': ['default', 'q1', 'q2', 'keep'],  # not 'bin': see statements.py
    'status': ['pending', 'scheduled', 'processing', 'completed', 'failed', 'cancelled', 'blocked'],
    'access': ['producer', 'consumer', 'manager', 'sql'],
    'on_conflict': ['keep', 'replace', 'error'],
    'on_parent_failure': ['cancel', 'ignore', 'run', 'fail'],
    'backoff': ['exponential', 'linear', 'fixed'],
    'sqlstate': ['22012', 'P0001', '40001', 'ZZ999', '00000', '57014'],
    'discard_sqlstate': ['22012', 'P0001', '40001', '23505'],
    'cron': ['* * * * *', '*/5 * * * *', '0 0 29 2 *', '@hourly', '30 2 * * 1-5', '0 0 31 2 *', '* * * * * *'],
    'time_zone': ['UTC', 'Europe/Berlin', 'America/New_York', '+05:30'],
    'on_misfire': ['once', 'all', 'skip'],
    'on_overlap': ['allow', 'skip'],
    'unique_key': ['k1', 'k2', 'k3'],
    'group_key': ['g1', 'g2'],
    'command': [
        'SELECT 1',
        'SELECT 1/0',
        'SELECT pg_sleep(0.1)',
        'VACUUM fuzz.no_such_table',
        'DO $$BEGIN COMMIT; END$$',
    ],
    'name': ['s1', 's2', 's3'],
}
WORDS['dead_letter_queue'] = WORDS['queue']

SMALL_INTEGERS = {
    'max_tasks': (1, 20), 'max_attempts': (1, 4), 'priority': (-2, 2), 'n': (1, 10), 'max_running': (1, 4),
    'batch_size': (1, 10), 'weight': (1, 10), 'rate_limit': (1, 100), 'rate_burst': (1, 100), 'group_limit': (1, 4),
    'misfire_limit': (1, 10), 'attempts': (0, 3), 'slot': (-1, 8),
}

ODD_TEXTS = [
    '',
    ' ',
    'a',
    'NULL',
    'null',
    '{}',
    '$1',
    '%s%n%d',
    "o'clock",
    '"quoted"',
    'back\\slash',
    '\\',
    'new\nline',
    '\r\n\t',
    '\x01\x7f',
    'ünï çødé',
    '😀' * 5,
    '\u202eright to left',
    'a' * 62,
    'b' * 63,
    'c' * 64,
    'd' * 65,
    'é' * 31 + 'x',
    'é' * 32,
    '€' * 21,
    '"Mixed Case"',
    "'; DROP TABLE jobqueue.tasks; --",
    'pg_catalog',
    'jobqueue',
    'x' * 1000,
    'default ',
]
NOT_UTF8 = [
    '\udcff',
    'a\udcc3',
    '\udced\udca0\udc80',
    '\udcf8\udc88\udc80\udc80\udc80',
    '\udcc0\udc80',
    'x' * 62 + '\udcc3',
]

BOUNDARIES = {
    'int2': [-2**15, 2**15 - 1],
    'int4': [-2**31, 2**31 - 1, -2**15 - 1, 2**15, 100000, 100001],
    'int8': [-2**63, 2**63 - 1, -2**31 - 1, 2**31, 2**32, 10**15],
}
ODD_INTERVALS = [
    '0',
    '-1 s',
    '-1 us',
    '1 us',
    '178000000 years',
    '-178000000 years',
    '2147483647 months',
    '-2147483648 months',
    '9223372036854775807 us',
    '-9223372036854775808 us',
    '2147483647 days',
    '1 month -30 days',
    '1 month -31 days',
    '-infinity',
    'infinity',
    '292000 years',
    '100 years',
    '1 day -24:00:00.000001',
    'garbage',
    '',
]
ODD_TIMES = [
    'infinity',
    '-infinity',
    '294276-12-31 23:59:59.999999+00',
    '4714-11-24 00:00:00+00 BC',
    'epoch',
    '1999-12-31 23:59:59+00',
    '2000-01-01 00:00:00+00',
    '9999-12-31',
    'garbage',
    '',
]
ODD_JSON = [
    'null',
    'true',
    '0',
    '-0.0',
    '1e1000',
    '""',
    '[]',
    '[[]]',
    '{"": ""}',
    '{"a": 1, "a": 2}',
    '"\\u0000"',
    '"\\ud800"',
    '{',
    '',
    '{"to": "a\\"b\\\\c\\nd"}',
    '[null, 1, "x", {"y": []}]',
    '123456789012345678901234567890.12345',
    '{"sql": "SELECT 1/0"}',
    '{"sql": null}',
    '"\u00e9\U0001f600"',
    'NaN',
]
ODD_ROLES = ['nobody', '', 'none', 'public', 'pg_read_all_data', 'pg_signal_backend', 'n' * 63, 'n' * 64]
ODD_FUNCTIONS = [
    '0::regprocedure',
    '1::regprocedure',
    '4294967295::regprocedure',
    '999999999::regprocedure',
    "'fuzz.nosuch(jsonb)'::regprocedure",
    "'fuzz.ok'::regprocedure",
    "'pg_catalog.now()'::regprocedure",
    "'pg_catalog.count(\"any\")'::regprocedure",
    "'pg_catalog.row_number()'::regprocedure",
    "'pg_catalog.jsonb_in(cstring)'::regprocedure",
    "'garbage'::regprocedure",
    "'jobqueue._tasks_inserted()'::regprocedure",
    "'jobqueue.enqueue_row()'::regprocedure",
    "'fuzz.two_arguments(jsonb,integer)'::regprocedure",
    "'pg_catalog.jsonb_typeof(jsonb)'::regprocedure",
    "'pg_catalog.jsonb_agg(anyelement)'::regprocedure",
    "'pg_catalog.jsonb_pretty(jsonb)'::regprocedure",
    "'fuzz.delays(integer,text)'::regprocedure",
]


def encode(sql):
    return sql.encode('utf-8', 'surrogateescape')


def literal(text):
    """For standard_conforming_strings = on."""
    return "'" + text.replace("'", "''") + "'"


def singular(name):
    return name[:-1] if name.endswith('s') and name[:-1] in WORDS else name


class Call:
    """What the values of one statement have in common."""

    def __init__(self, rng, pools, mode, claims=()):
        self.rng = rng
        self.mode = mode  # valid; one (a single odd value: see spoil); wild
        self.spoil = None
        self.length = rng.choice([1, 1, 2, 3, 8])  # of arrays that belong together
        self.pools = pools
        draws = [rng.random() for _ in range(self.length + 1)]
        from_claims = claims and draws.pop() < 0.7
        known = claims if from_claims else pools.tasks
        self.tasks = [known[int(draw * len(known))] if known else (1, 1) for draw in draws[:self.length]]
        self.wrong_attempt = rng.random() < 0.15


class Values:
    """Chooses; makes the same draws from the random numbers whatever the pools hold."""

    def __init__(self, types):
        self.types = types  # name: (kind, element's name or None, labels, as it is written)

    def value(self, call, type_name, name, n=0):
        """An SQL expression of this type."""
        odd = call.mode == 'wild' and call.rng.random() < 0.6 or call.spoil == name
        if odd and call.rng.random() < 0.25:
            return 'NULL::' + self.written(type_name)
        kind, element, labels, _ = self.types[type_name]
        if element:
            return self.array(call, type_name, element, name, odd)
        if kind == 'e':
            return literal(call.rng.choice(labels)) + '::' + self.written(type_name)
        if kind == 'c':
            return call.rng.choice(
                [
                    '(SELECT t FROM jobqueue.tasks t WHERE t.id = %d LIMIT 1)::' % call.tasks[0][0],
                    'NULL::',
                    "json_populate_record(NULL::jobqueue.tasks, '{\"id\": 1, \"type\": \"x\"}')::",
                ]
            ) + self.written(type_name)
        make = getattr(self, 'make_' + type_name, None)
        if make:
            return make(call, name, odd, n)
        return '%s::%s' % (literal(call.rng.choice(['0', 'x', '', '1.5', '{}'])), self.written(type_name))

    def written(self, type_name):
        return self.types[type_name][3]

    def array(self, call, type_name, element, name, odd):
        rng, cast = call.rng, '::' + self.written(type_name)
        column = {'_text': 'ta', '_jsonb': 'ja', '_int8': 'ba', '_int4': 'ia'}.get(type_name)
        if not odd:
            if column and name not in ID_NAMES | ATTEMPT_NAMES and rng.random() < 0.1:
                return '(SELECT %s FROM fuzz.kept WHERE n = %d)' % (column, rng.randint(1, 4))
            return 'ARRAY[%s]%s' % (', '.join(self.value(call, element, name, n) for n in range(call.length)), cast)
        items = [self.value(call, element, name, n) for n in range(4)]
        return rng.choice(
            [
                lambda: "'{}'" + cast,
                lambda: 'ARRAY[NULL]' + cast,
                lambda: 'ARRAY[%s, NULL, %s]%s' % (items[0], items[1], cast),
                lambda: 'ARRAY[[%s, %s], [%s, %s]]%s' % (*items, cast),
                lambda: 'array_fill(%s, ARRAY[1, 1, 1, 1, 1, 2])%s' % (items[0], cast),
                lambda: 'array_fill(%s, ARRAY[3], ARRAY[-5])%s' % (items[0], cast),
                lambda: 'array_fill(%s, ARRAY[3], ARRAY[2147483640])%s' % (items[0], cast),
                lambda: 'array_fill(%s, ARRAY[%d])%s'
                % (
                    items[0],
                    (
                        rng.choice([100, 1000, 5000])
                        if len(items[0]) < 90 and 'repeat(' not in items[0] and 'kept' not in items[0]
                        else 3
                    ),
                    cast,
                ),
                lambda: 'array_fill(NULL%s, ARRAY[1000])%s' % (cast[:-2], cast),
                lambda: "'[7:8]={NULL,NULL}'" + cast,
                lambda: "'{{}'" + cast,
                lambda: (
                    '(SELECT %s FROM fuzz.kept WHERE n = %d)' % (column, rng.randint(1, 8)) if column else "'{}'" + cast
                ),
            ]
        )()

    def make_text(self, call, name, odd, n):
        rng, name = call.rng, singular(name)
        if not odd:
            draw = rng.random()
            if name == 'type':
                known = call.pools.types
                return literal(known[int(draw * len(known))] if draw < 0.8 else rng.choice(WORDS['type'])) + '::text'
            if name == 'queue' and draw > 0.85:
                known = call.pools.queues
                return literal(known[int((draw - 0.85) / 0.15 * len(known))]) + '::text'
            if name in WORDS:
                return literal(rng.choice(WORDS[name])) + '::text'
            return literal(rng.choice(['some text', 'ünï çødé', 'x', "it's"])) + '::text'
        kind = rng.random()
        if kind < 0.6:
            return literal(rng.choice(ODD_TEXTS)) + '::text'
        if kind < 0.68:
            return literal(rng.choice(NOT_UTF8)) + '::text'
        if kind < 0.72:
            return "E'" + ''.join('\\x%02x' % rng.randint(128, 255) for _ in range(rng.randint(1, 4))) + "'::text"
        if kind < 0.8:
            return '(SELECT t FROM fuzz.kept WHERE n = %d)' % rng.randint(1, 8)
        if kind < 0.9:
            return (
                literal(
                    ''.join(
                        chr(rng.choice([rng.randint(1, 127), rng.randint(128, 0xD7FF)]))
                        for _ in range(rng.randint(1, 80))
                    )
                )
                + '::text'
            )
        if kind < 0.999:
            return 'repeat(%s, %d)' % (
                literal(rng.choice(['x', 'é', "'", '\\'])),
                rng.choice([62, 63, 64, 2704, 8192, 100000, 3000000]),
            )
        return "repeat('x', %d)" % rng.choice([110000000, 150000000])

    def make_varchar(self, call, name, odd, n):
        return self.make_text(call, name, odd, n)

    def make_name(self, call, name, odd, n):
        known = call.pools.roles
        return literal(call.rng.choice(ODD_ROLES + ODD_TEXTS) if odd else call.rng.choice(known)) + '::name'

    def integer(self, call, type_name, name, odd, n):
        rng = call.rng
        if odd:
            return '(%d)::%s' % (
                rng.choice([0, -1, 1, 42, 1 + call.tasks[0][0]] + BOUNDARIES[type_name] * 2),
                type_name,
            )
        if name in ATTEMPT_NAMES and n < len(call.tasks):
            return '(%d)::%s' % (call.tasks[n][1] + (rng.choice([-1, 1]) if call.wrong_attempt else 0), type_name)
        if name in ID_NAMES or type_name == 'int8':
            return '(%d)::%s' % (call.tasks[n % len(call.tasks)][0], type_name)
        return '(%d)::%s' % (rng.randint(*SMALL_INTEGERS.get(name, (0, 5))), type_name)

    def make_int2(self, call, name, odd, n):
        return self.integer(call, 'int2', name, odd, n)

    def make_int4(self, call, name, odd, n):
        return self.integer(call, 'int4', name, odd, n)

    def make_int8(self, call, name, odd, n):
        return self.integer(call, 'int8', name, odd, n)

    def make_bool(self, call, name, odd, n):
        return call.rng.choice(['true', 'false'])

    def make_float4(self, call, name, odd, n, type_name='float4'):
        values = (
            ['NaN', 'Infinity', '-Infinity', '-0', '1e-38', '3e38', '-1', '1.0001', '2']
            if odd
            else ['0', '0.2', '0.5', '1']
        )
        return literal(call.rng.choice(values)) + '::' + type_name

    def make_float8(self, call, name, odd, n):
        return self.make_float4(call, name, odd, n, 'float8')

    def make_numeric(self, call, name, odd, n):
        return self.make_float4(call, name, odd, n, 'numeric')

    def make_interval(self, call, name, odd, n):
        if odd:
            return literal(call.rng.choice(ODD_INTERVALS)) + '::interval'
        values = (
            ['50 ms', '200 ms', '1 s']
            if name == 'timeout'
            else ['0', '10 ms', '100 ms', '1 s', '5 minutes', '1 day', '1 month']
        )
        return literal(call.rng.choice(values)) + '::interval'

    def make_timestamptz(self, call, name, odd, n):
        if odd:
            return literal(call.rng.choice(ODD_TIMES)) + '::timestamptz'
        return call.rng.choice(
            [
                'now()',
                "now() - interval '1 day'",
                "clock_timestamp() + interval '%d ms'" % call.rng.randint(1, 2000),
                "now() + interval '1 hour'",
            ]
        )

    def make_uuid(self, call, name, odd, n):
        return 'gen_random_uuid()' if not odd else "'00000000-0000-0000-0000-000000000000'::uuid"

    def make_oid(self, call, name, odd, n):
        return '%d::oid' % call.rng.choice([0, 1, 1259, 4294967295])

    def make_regprocedure(self, call, name, odd, n):
        if odd:
            return call.rng.choice(ODD_FUNCTIONS)
        known = (
            ['delays(integer,text)', 'delays_badly(integer,text)']
            if name == 'backoff_function'
            else call.pools.functions
        )
        return literal('fuzz.' + call.rng.choice(known)) + '::regprocedure'

    def make_jsonb(self, call, name, odd, n, type_name='jsonb'):
        rng = call.rng
        if not odd:
            return (
                literal(rng.choice(['{}', '{"n": %d}' % n, '[1, 2]', '"text"', '{"to": "ann@example.org"}', '7']))
                + '::'
                + type_name
            )
        kind = rng.random()
        if kind < 0.5:
            return literal(rng.choice(ODD_JSON)) + '::' + type_name
        if kind < 0.6:
            depth = rng.choice([100, 2000, 6000, 100000])
            opening, inner, closing = rng.choice([('[', '', ']'), ('{"a":', '1', '}')])
            return "(repeat('%s', %d) || '%s' || repeat('%s', %d))::%s" % (
                opening,
                depth,
                inner,
                closing,
                depth,
                type_name,
            )
        if kind < 0.75:
            return '(SELECT j FROM fuzz.kept WHERE n = %d)::%s' % (rng.randint(1, 8), type_name)
        if kind < 0.8:
            return literal('"' + rng.choice(NOT_UTF8) + '"') + '::' + type_name
        if kind < 0.999:
            return "jsonb_build_object('x', repeat('y', %d))::%s" % (rng.choice([1000, 100000, 5000000]), type_name)
        return "to_jsonb(repeat('x', 110000000))::" + type_name

    def make_json(self, call, name, odd, n):
        return self.make_jsonb(call, name, odd, n, 'json')
