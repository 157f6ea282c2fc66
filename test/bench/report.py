#!/usr/bin/env python3
"""What the benchmark has measured: medians and spread, what must be shown, tables, plots.

report.py SUMMARY.json doc/performance.md    puts the tables between the marks in that file, and the plots beside it
"""
import json
import math
import os
import re
import statistics
import sys

NUMBERS = (
    'rate',
    'first10',
    'last10',
    'wal_per_job',
    'cpu_server_us_per_job',
    'cpu_client_us_per_job',
    'other_cores',
    'load',
    'tasks',
    'victims',
    'deadlocks',
    'percent',
    'wal_per_s',
    'first_mb',
    'last_mb',
    'most_mb',
    'waiting',
    'left',
)
TITLES = {
    'drain': 'Drain: tasks a second, until nothing is left',
    'sustained': 'Sustained: producers and workers at once',
    'enqueue 1': 'Enqueue, 1 client',
    'enqueue 8': 'Enqueue, 8 clients',
    'enqueue 64': 'Enqueue, 64 clients',
    'enqueue 1000s': 'Enqueue, 1 client, 1,000 a statement',
    'copy': 'COPY, rows a second',
    'latency': 'Latency, idle server: commit to start of the handler',
    'loaded': 'Latency at half the drain rate',
    'outside': 'Workers outside the server: one connection, batches of 100',
    'contention': 'Four clients beside handlers that update the same 500 accounts: their transactions a second',
    'urgent': 'A million wait: commit to start of an urgent task',
    'queues': '1,000 queues and types: drain',
    'limits': 'Limits and dependencies, four workers, history on: drain',
    'housekeeping': 'A heap of housekeeping: how late delayed tasks start',
    'mixed': 'One task in 1,000 sleeps 0.1 s: drain',
    'inflight': '10,000 claimed by somebody: drain by one connection, or by workers',
    'history': 'Millions of completed tasks kept: drain',
    'idle': 'Idle',
    'backlog': 'Drain by size of the backlog',
    'snapshot': 'Sustained, while another session holds a snapshot',
    'memory': 'Memory of one worker',
}


def number(value):
    if value is None:
        return '-'
    return f'{value:,.0f}' if abs(value) >= 100 else f'{value:.3g}'


def brief(result):
    parts = []
    if 'rate' in result:
        parts.append(f"{number(result['rate'])}/s")
    for latency in ('latency_ms', 'ack_to_start_ms'):
        if latency in result:
            parts.append('p50 {p50}, p99 {p99}, max {max} ms'.format(**result[latency]))
    parts += [
        f'{name} {number(result[name])}'
        for name in ('first10', 'last10', 'tasks', 'victims', 'percent', 'last_mb', 'left')
        if result.get(name) is not None
    ]
    if result.get('other_cores', 0) > 0.3:
        parts.append(f"others took {result['other_cores']} cores")
    return ', '.join(parts)


def spread(values):
    return {'median': statistics.median(values), 'min': min(values), 'max': max(values), 'values': values}


# --- the summary

class Rounds:
    """All runs, by workload and case, each with its round."""

    def __init__(self, results):
        self.results = results

    def by_round(self, workload, case, field):
        """Field may be a path such as latency_ms.p50, or a list of which the first that is there counts."""
        values = {}
        for run in self.results.get((workload, case), []):
            value = run
            for key in field.split('.'):
                value = value.get(key) if isinstance(value, dict) else None
            if value is not None:
                values[run['round']] = value
        return values

    def ratios(self, one, other, field='rate'):
        mine, theirs = self.by_round(*one, field), self.by_round(*other, field)
        return [mine[r] / theirs[r] for r in sorted(mine.keys() & theirs.keys()) if theirs[r]]

    def best(self, workload, cases):
        """Of these, the case with the highest median."""
        medians = {case: statistics.median(self.by_round(workload, case, 'rate').values())
                   for case in cases if self.by_round(workload, case, 'rate')}
        return max(medians, key=medians.get) if medians else None


def shows(rounds):
    """What must be shown: (what, measured, wanted, whether it is so); measured is a spread, or None."""
    rows = []

    def show(what, values, wanted, at_least=True, unit='×'):
        measured = spread([round(value, 3) for value in values]) if values else None
        passed = measured and (measured['median'] >= wanted if at_least else measured['median'] <= wanted)
        rows.append({'what': what, 'measured': measured, 'wanted': wanted, 'unit': unit, 'at_least': at_least,
                     'ok': None if measured is None else bool(passed)})

    def ratio(what, one, other, wanted):
        show(what, rounds.ratios(one, other) if other[1] else [], wanted)

    pgboss = rounds.best('drain', ['pg-boss, fetch', 'pg-boss, work'])
    bullmq = rounds.best('drain', ['BullMQ', 'BullMQ, fsync always'])
    rivals = rounds.best(
        'drain',
        ['graphile-worker', 'pg-boss, fetch', 'pg-boss, work', 'BullMQ', 'BullMQ, fsync always', 'article pattern'],
    )
    off, on, sync = ('drain', 'ours, history off'), ('drain', 'ours'), ('drain', 'ours, synchronous')
    ratio('drain, history off: plain SQL limit', off, ('drain', 'limit'), 0.8)
    ratio('drain, history off: graphile-worker, tuned', off, ('drain', 'graphile-worker'), 2.5)
    ratio('drain, history off: pg-boss at its best', off, ('drain', pgboss), 4)
    ratio('drain, history off: BullMQ at its best', off, ('drain', bullmq), 10)
    ratio('drain: plain SQL limit', on, ('drain', 'limit'), 0.5)
    ratio('drain: graphile-worker, tuned', on, ('drain', 'graphile-worker'), 1.75)
    ratio('drain, committing synchronously: the best rival', sync, ('drain', rivals), 1)
    ratio('drain, batch handlers, history off: PgQ', ('drain', 'ours, batches, history off'), ('drain', 'PgQ'), 0.8)
    ratio('sustained: the best of graphile-worker and pg-boss', ('sustained', 'ours'),
          ('sustained', rounds.best('sustained', ['graphile-worker', 'pg-boss'])), 2.5)
    sizes = [
        int(case.split(', ')[1])
        for workload, case in rounds.results
        if workload == 'backlog' and case.startswith('ours')
    ]
    if sizes:
        ratio(
            f'backlog: {max(sizes):,} beside {min(sizes):,}',
            ('backlog', f'ours, {max(sizes)}'),
            ('backlog', f'ours, {min(sizes)}'),
            0.9,
        )
    for case in ('ours', 'ours, outside'):
        first, last = (rounds.by_round('snapshot', case, field) for field in ('first10', 'last10'))
        show(
            f'old snapshot: last 10 s beside first, {case}',
            [last[r] / first[r] for r in sorted(first.keys() & last.keys())],
            0.8,
        )

    latency = list(rounds.by_round('latency', 'ours, enqueue()', 'latency_ms.p50').values())
    show('latency, idle: p50', latency, 0.4, False, 'ms')
    mine, theirs = (rounds.by_round('latency', case, 'ack_to_start_ms.p50') for case in ('ours, node client', 'BullMQ'))
    show(
        "latency, idle: p50 less BullMQ's",
        [mine[r] - theirs[r] for r in sorted(mine.keys() & theirs.keys())],
        0,
        False,
        'ms',
    )
    show(
        'latency, idle: p99',
        list(rounds.by_round('latency', 'ours, enqueue()', 'latency_ms.p99').values()),
        3,
        False,
        'ms',
    )
    show(
        'latency at half the drain rate: p99',
        list(rounds.by_round('loaded', 'ours', 'latency_ms.p99').values()),
        50,
        False,
        'ms',
    )
    for case, name in (
        ('ours, history off', 'claim and complete_many'),
        ('ours, fused, history off', 'complete_and_claim'),
    ):
        ratio(f"outside, {name}: pgmq's pattern", ('outside', case), ('outside', 'pgmq pattern'), 1.5)
    for order in ('in order', 'at random'):
        ratio(f'clients beside fused execution, tasks {order}: beside durable', ('contention', f'fused, {order}'),
              ('contention', f'durable, {order}'), 0.8)
    victims = [
        sum(run['victims'] for run in runs) for (_, case), runs in rounds.results.items() if case.startswith('fused')
    ]
    show('clients beside fused execution: victims of a deadlock', [sum(victims)] if victims else [], 0, False, '')
    for case in ('lower priority number', 'older transaction'):
        show(
            f'a million wait, {case}: slowest start',
            list(rounds.by_round('urgent', case, 'latency_ms.max').values()),
            50,
            False,
            'ms',
        )
    ratio('1,000 queues and types: one', ('queues', '1000'), ('queues', '1'), 0.8)
    for case in [case for workload, case in rounds.results if workload == 'limits' and case.endswith(' groups')]:
        ratio(f'{case}, one task of each at a time: no groups', ('limits', case), ('limits', 'none'), 0.5)
    grown = [run['last_mb'] - run['first_mb'] for run in rounds.results.get(('memory', 'ours'), [])]
    show('memory of a worker, last tenth less first', grown, 1, False, 'MB')
    ratio(
        'enqueue, 64 clients, INSERT: plain table', ('enqueue 64', 'ours, INSERT'), ('enqueue 64', 'plain table'), 0.9
    )
    ratio(
        'enqueue, 64 clients, enqueue(): plain table',
        ('enqueue 64', 'ours, enqueue()'),
        ('enqueue 64', 'plain table'),
        0.8,
    )
    ratio('COPY: plain table', ('copy', 'ours'), ('copy', 'plain table'), 0.8)
    show('idle: CPU, of a core', list(rounds.by_round('idle', 'ours', 'percent').values()), 0.1, False, '%')
    return rows


def summarize(results, environment):
    rounds = Rounds(results)
    summary = {'environment': environment, 'shows': shows(rounds), 'results': []}
    for (workload, case), runs in results.items():
        row = {'workload': workload, 'case': case, 'runs': len(runs), 'settings': runs[0]['settings']}
        if 'opts' in runs[0]:
            row['options'] = runs[0]['opts']
        for field in NUMBERS:
            if values := [run[field] for run in runs if run.get(field) is not None]:
                row[field] = spread(values)
        for latency in ('latency_ms', 'ack_to_start_ms'):
            if latency in runs[0]:
                row[latency] = {key: spread([run[latency][key] for run in runs]) for key in runs[0][latency]}
        if runs[0].get('curve'):
            row['curve'] = [round(statistics.median(values), 2) for values in zip(*(run['curve'] for run in runs))]
        summary['results'].append(row)
    return summary


# --- tables

def cell(measured, factor=1):
    if not measured:
        return '-'
    text = number(measured['median'] * factor)
    return (
        text
        if len(measured['values']) == 1
        else f"{text} [{number(measured['min'] * factor)} - {number(measured['max'] * factor)}]"
    )


def show_table(summary):
    lines = ['| what | measured | wanted | |', '|---|---|---|---|']
    for row in summary['shows']:
        wanted = f"{'at least' if row['at_least'] else 'at most'} {row['wanted']:g} {row['unit']}".strip()
        verdict = {True: 'ok', False: '**missed**', None: 'not measured'}[row['ok']]
        lines.append(f"| {row['what']} | {cell(row['measured'])} | {wanted} | {verdict} |")
    return lines


def latency_cells(row):
    return ' / '.join(cell(row[key]) if isinstance(row.get(key), dict) else '-' for key in ('p50', 'p95', 'p99', 'max'))


def result_tables(summary):
    """One for each workload; columns that no case has are left out."""
    lines = []
    columns = [
        ('rate', 'a second'),
        ('first10', 'first 10 s'),
        ('last10', 'last 10 s'),
        ('wal_per_job', 'WAL, bytes each'),
        ('cpu_server_us_per_job', 'server CPU, µs each'),
        ('cpu_client_us_per_job', 'client CPU, µs each'),
        ('load', 'load, tasks a second'),
        ('tasks', 'tasks a second'),
        ('victims', 'deadlock victims'),
        ('waiting', 'still waiting'),
        ('percent', 'CPU, % of a core'),
        ('wal_per_s', 'WAL, bytes a second'),
        ('first_mb', 'first tenth, MB'),
        ('last_mb', 'last tenth, MB'),
        ('most_mb', 'most, MB'),
    ]
    by_workload = {}
    for row in summary['results']:
        by_workload.setdefault(row['workload'], []).append(row)
    for workload, rows in by_workload.items():
        shown = [(field, title) for field, title in columns if any(field in row for row in rows)]
        latencies = any('latency_ms' in row or 'ack_to_start_ms' in row for row in rows)
        titles = ['', *(title for _, title in shown)] + (['p50 / p95 / p99 / max, ms'] if latencies else [])
        lines += [
            '',
            f'### {TITLES.get(workload, workload)}',
            '',
            f"| {' | '.join(titles)} |",
            '|' + '---|' * len(titles),
        ]
        for row in rows:
            cells = [
                row['case'] + (' ‡' if row.get('left', {'max': 0})['max'] > 0 else ''),
                *(cell(row.get(field)) for field, _ in shown),
            ]
            if latencies:
                cells.append(latency_cells(row.get('latency_ms') or row.get('ack_to_start_ms') or {}))
            lines.append(f"| {' | '.join(cells)} |")
    return lines + ['', '‡ the time was over, or the clients were through, before the queue was empty.']


def settings_table(summary):
    environment = summary['environment']
    rows = [
        ('date', environment['date']),
        ('machine', f"{environment['cores']} cores, {environment['cpu']}, {environment['memory_gb']} GB"),
        ('kernel', environment['kernel']),
        ('PostgreSQL', environment['postgresql']),
        ('jobqueue', f"{environment['features']['version']}, commit {environment['commit']}"),
        (
            'rounds',
            (
                f"{environment['rounds']}{', quick' if environment['quick'] else ''}, {environment['minutes']} minutes"
                " in all"
            ),
        ),
        ('rivals', ', '.join(f'{name} {version}' for name, version in environment['rivals'].items()) or 'not run'),
        ('settings', ', '.join(f'`{name} = {value}`' for name, value in environment['settings'].items())),
    ]
    return ['| | |', '|---|---|'] + [f'| {name} | {value} |' for name, value in rows]


def tables(summary):
    return settings_table(summary) + [''] + show_table(summary) + result_tables(summary)


# --- plots

COLOURS = ['#1f5fa8', '#5b9bd5', '#c0392b', '#e08e45', '#4b8b3b', '#7d5ba6', '#777777']


def plot(title, x_title, y_title, curves, labels):
    """An SVG of lines; curves is {name: [(x, y)]}, labels are of the x axis, [(x, text)]."""
    width, height, left, right, top, bottom = 760, 380, 80, 190, 40, 50
    xs = [x for points in curves.values() for x, _ in points] + [x for x, _ in labels]
    most = max(y for points in curves.values() for _, y in points)
    magnitude = 10 ** math.floor(math.log10(most))
    tick = next(step * magnitude for step in (0.2, 0.5, 1, 2) if most / (step * magnitude) <= 6)
    most = tick * math.ceil(most / tick)
    low, high = min(xs), max(xs)

    def label(value):
        return f'{value:,.0f}' if value >= 10 else f'{value:g}'

    def place(x, y):
        return (
            left + (x - low) / ((high - low) or 1) * (width - left - right),
            height - bottom - y / most * (height - top - bottom),
        )

    out = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif"'
            ' font-size="12">'
        ),
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{left}" y="22" font-size="15">{title}</text>',
        f'<text x="{(left + width - right) / 2:.0f}" y="{height - 10}" text-anchor="middle">{x_title}</text>',
        (
            f'<text x="16" y="{height / 2:.0f}" text-anchor="middle" transform="rotate(-90 16'
            f' {height / 2:.0f})">{y_title}</text>'
        ),
    ]
    for step in range(round(most / tick) + 1):
        x, y = place(low, step * tick)
        out += [f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{width - right}" y2="{y:.1f}" stroke="#dddddd"/>',
                f'<text x="{x - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{label(step * tick)}</text>']
    for at, text in labels:
        x, y = place(at, 0)
        out.append(f'<text x="{x:.1f}" y="{y + 18:.1f}" text-anchor="middle">{text}</text>')
    for index, (name, points) in enumerate(curves.items()):
        colour, points = COLOURS[index % len(COLOURS)], [place(*point) for point in points]
        path = ' '.join(f'{x:.1f},{y:.1f}' for x, y in points)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>' for x, y in points]
        legend = top + 10 + 18 * index
        out += [
            (
                f'<line x1="{width - right + 12}" y1="{legend}" x2="{width - right + 32}" y2="{legend}"'
                f' stroke="{colour}" stroke-width="3"/>'
            ),
            f'<text x="{width - right + 38}" y="{legend + 4}">{name}</text>',
        ]
    return '\n'.join(out + ['</svg>', ''])


def plots(summary):
    """{name of the file: (title, SVG)}"""
    files = {}

    def draw(name, title, *others):
        files[name] = title, plot(title, *others)

    held = {row['case']: [(10 * i + 5, rate) for i, rate in enumerate(row['curve'])]
            for row in summary['results'] if row['workload'] == 'snapshot' and row.get('curve')}
    if held:
        end = max(x for points in held.values() for x, _ in points) + 5
        draw('snapshot.svg', 'Sustained rate while a snapshot is held', 'seconds', 'tasks a second', held,
             [(x, str(x)) for x in range(0, end + 1, 60 if end > 120 else 10)])
    sizes = {}
    for row in summary['results']:
        if row['workload'] == 'backlog':
            case, size = row['case'].rsplit(', ', 1)
            sizes.setdefault(case, []).append((len(size) - 1, row['rate']['median']))
    if sizes:
        powers = sorted({x for points in sizes.values() for x, _ in points})
        draw('backlog.svg', 'Rate over the size of the backlog', 'tasks queued', 'tasks a second', sizes,
             [(x, f'{10 ** x:,}') for x in powers])
    for row in summary['results']:
        if row['workload'] == 'memory' and row.get('curve'):
            end = 10 * len(row['curve'])
            draw(
                'memory.svg',
                'Private memory of one worker',
                'seconds',
                'MB',
                {'worker': [(10 * i + 5, mb) for i, mb in enumerate(row['curve'])]},
                [(x, str(x)) for x in range(0, end + 1, max(10, end // 6 // 10 * 10))],
            )
    return files


def insert(text, mark, lines):
    """Between <!-- mark --> and <!-- end -->."""
    new, count = re.subn(
        rf'(<!-- {mark} -->\n).*?(<!-- end -->)', lambda m: m[1] + '\n'.join(lines) + '\n' + m[2], text, flags=re.S
    )
    if count != 1:
        raise SystemExit(f'no <!-- {mark} --> in the document')
    return new


def main():
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    with open(sys.argv[1], encoding='utf-8') as file:
        summary = json.load(file)
    with open(sys.argv[2], encoding='utf-8') as file:
        text = file.read()
    pictures = plots(summary)
    links = [f'![{title}](performance_{name})' for name, (title, _) in pictures.items()]
    for mark, lines in (
        ('settings', settings_table(summary)),
        ('shows', show_table(summary)),
        ('plots', '\n\n'.join(links).split('\n')),
        ('results', result_tables(summary)),
    ):
        text = insert(text, mark, lines)
    with open(sys.argv[2], 'w', encoding='utf-8') as file:
        file.write(text)
    for name, (_, svg) in pictures.items():
        with open(os.path.join(os.path.dirname(sys.argv[2]), f'performance_{name}'), 'w', encoding='utf-8') as file:
            file.write(svg)


if __name__ == '__main__':
    main()
