"""What the clients know: which tasks they were told are there, and what must have become of them. Tasks are named by a
token in their payload. At the end the ledger is compared with the tables."""
import threading
import time
from collections import Counter, namedtuple

Task = namedtuple('Task', 'id token type status attempts max_attempts last_sqlstate last_error claimed_by slot')

TASKS = """
SELECT id, coalesce(payload->>'token', payload->'new'->>'token', '?'), type, status, attempts, max_attempts,
    last_sqlstate, last_error, claimed_by, slot
FROM jobqueue.tasks
"""

FINISHED = ('completed', 'failed', 'cancelled')
OUTSIDE = ('parcel', 'exact', 'hand')


class Entry:
    """One task. fate: must = acknowledged, never = not committed, unknown = the answer to COMMIT was lost."""
    __slots__ = ('type', 'fate', 'child', 'doomed', 'few', 'cancelled', 'completed', 'failed', 'claims')

    def __init__(self, kind, child=False, doomed=False, few=False):
        self.type, self.child, self.doomed, self.few = kind, child, doomed, few
        self.fate = 'never'
        self.cancelled = None  # what cancel() answered; 'unknown' if the answer was lost
        self.completed = None  # attempt and time of an acknowledged complete()
        self.failed = False    # fail() answered that it has failed for good
        self.claims = set()    # attempts handed out to workers outside


class Ledger:
    def __init__(self):
        self.lock = threading.Lock()
        self.entries = {}
        self.violations = []
        self.counts = Counter()
        self.kinds = Counter()
        self.most_of_a_kind = 20
        self.kills = 0

    def report(self, text, kind=None):
        """Notes a violation. If there are thousands of one kind, only some are kept."""
        kind = kind or text
        with self.lock:
            self.kinds[kind] += 1
            if self.kinds[kind] <= self.most_of_a_kind:
                self.violations.append(text)
                print(f'VIOLATION: {text}', flush=True)

    def add(self, token, entry):
        with self.lock:
            self.entries[token] = entry

    def decide(self, tokens, fate):
        with self.lock:
            for token in tokens:
                self.entries[token].fate = fate

    def count(self, what, n=1):
        with self.lock:
            self.counts[what] += n

    # Workers outside

    def claimed(self, token, attempt, asked_at):
        with self.lock:
            entry = self.entries.get(token)
            ended = entry.completed if entry else None
            again = entry is not None and attempt in entry.claims
            if entry:
                entry.claims.add(attempt)
                if entry.fate == 'unknown':
                    entry.fate = 'must'
        if entry is None:
            self.report(f'claim() gave {token}, which nobody has enqueued', 'claimed, unknown')
        elif entry.fate == 'never':
            self.report(f'claim() gave {token}, which was rolled back', 'claimed, rolled back')
        elif again:
            self.report(f'claim() gave attempt {attempt} of {token} twice', 'claimed twice')
        elif ended and asked_at > ended[1]:
            self.report(f'claim() gave {token} after its completion was acknowledged', 'claimed after completion')

    def completed(self, token, attempt):
        with self.lock:
            entry = self.entries[token]
            before, entry.completed = entry.completed, (attempt, time.monotonic())
        self.count('completions acknowledged')
        if before:
            self.report(f'{token} was completed twice: attempts {before[0]} and {attempt}', 'completed twice')

    # The audit

    def audit(self, tasks, effects, steps, outside_effects):
        """effects: token -> (task, attempt), steps: token -> {attempt: steps}, outside_effects: tokens"""
        rows = {}
        for task in tasks:
            if task.token in rows:
                self.report(f'two rows for one task: {task} and {rows[task.token]}', 'two rows')
            rows[task.token] = task
            self.audit_row(task)
        children = {f'{token}/child': token for token, entry in self.entries.items() if entry.child}
        for token, task in rows.items():
            if token not in self.entries and token not in children:
                self.report(f'a task that nobody has enqueued: {task}', 'unknown task')
        for token, entry in self.entries.items():
            task = rows.get(token)
            if task is None:
                if entry.fate == 'must':
                    self.report(f'lost: {token} of type {entry.type} was acknowledged, and is not there', 'lost')
                if token in effects or token in outside_effects:
                    self.report(f'an effect without a task: {token} of type {entry.type}', 'effect without task')
            elif entry.fate == 'never':
                self.report(f'not rolled back: {task}', 'not rolled back')
            else:
                self.audit_entry(entry, task, effects.get(token), token in outside_effects)
                if entry.type == 'steps' and task.status == 'completed':
                    self.audit_steps(task, steps.get(token, {}))
            child = rows.get(f'{token}/child')
            if entry.child and (child is not None) != (task is not None and task.status == 'completed'):
                self.report(f'task and the task it enqueues: {task}, {child}', 'child')
        for token, parent in children.items():
            if token in rows:
                self.audit_entry(Entry('quick'), rows[token], effects.get(token), False)
        for token in effects:
            if token not in rows and token not in self.entries:
                self.report(f'an effect of no task: {token}', 'effect of no task')
        return rows

    def audit_row(self, task):
        """Checks what holds for every row."""
        if task.max_attempts is not None and task.attempts > task.max_attempts:
            self.report(f'more attempts than allowed: {task}', 'too many attempts')
        if task.last_sqlstate == '23505':
            self.report(f'an effect was about to happen twice: {task}', 'twice')
        if task.status not in FINISHED:
            self.report(f'not finished: {task}', 'not finished')
        elif task.slot != (-1 if task.status == 'failed' else task.slot) or task.slot == 0:
            self.report(f'finished, and in the wrong partition: {task}', 'wrong partition')
        if task.status == 'failed' and task.attempts < 1:
            self.report(f'failed without an attempt: {task}', 'failed without attempt')

    def audit_entry(self, entry, task, effect, outside_effect):
        if entry.cancelled is True and task.status != 'cancelled':
            self.report(f'cancel() said true: {task}', 'not cancelled')
        if task.status == 'cancelled' and entry.cancelled not in (True, 'unknown'):
            self.report(f'cancelled by nobody: {task}', 'cancelled by nobody')
        if task.status == 'failed' and task.attempts < (task.max_attempts or 0) and task.last_sqlstate != 'JQ005':
            self.report(f'failed with attempts left: {task}', 'failed early')
        if task.status == 'failed' and not entry.doomed and not entry.few and not self.may_be_charged(task):
            self.report(f'failed, though nothing is wrong with it: {task}', 'failed')
        if entry.doomed and task.status == 'completed':
            self.report(f'completed, though it always raises: {task}', 'doomed')
        if entry.type not in OUTSIDE:
            if (effect is not None) != (task.status == 'completed'):
                self.report(f'effect and completion differ: {task}, effect {effect}', 'effect and completion')
            elif effect and (effect[0] != task.id or effect[1] != task.attempts):
                self.report(f'the effect is that of another attempt: {task}, effect {effect}', 'other attempt')
        elif entry.completed and (task.status != 'completed' or task.attempts != entry.completed[0]):
            self.report(f'its completion as attempt {entry.completed[0]} was acknowledged: {task}', 'completion lost')
        elif entry.failed and task.status != 'failed':
            self.report(f'its failure was acknowledged: {task}', 'failure lost')
        if entry.type == 'exact' and outside_effect != (task.status == 'completed'):
            self.report(f'effect and completion outside differ: {task}', 'exact')

    def may_be_charged(self, task):
        """A task may be set aside for crashing the server only if the test has made it look guilty."""
        return task.last_sqlstate == 'JQ005' and self.kills >= 3

    def audit_steps(self, task, attempts):
        """A task ran at least once, and the attempt that completed took all steps."""
        if attempts.get(task.attempts) != {1, 2}:
            self.report(f'a procedure completed without its steps: {task}, steps {attempts}', 'steps')
