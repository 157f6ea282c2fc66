#!/usr/bin/env python3
"""Checks the rule of CONTRIBUTING.md about C and C++ in one function, over what the compiler made of all sources.

    regions.py --server /path/to/postgres FILE.ll...

The files are LLVM's text of each source, as clang writes it with -O0 -gline-tables-only -S -emit-llvm. In it every
call with something to destroy behind it is an "invoke", which names the block that does so. So the rule can be read
off the calls, through templates, lambdas and temporaries:

    an error       no call that may raise an error of the server's is made where an object waits for its destructor,
                   or a catch block for an exception: the error jumps over them
    an exception   no function that the server calls, and no callable given to guard(), throws

What may raise: a function that the server exports, unless it is in CANNOT_RAISE; and whoever calls such a function
without guard(). A call by a pointer may call any function of that type whose address is taken. Which of them throw is
not asked, but for what guard() calls: C calls the server's own by pointers.
"""

import argparse
import re
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass, field

# They return, whatever happens; or the process ends with FATAL or PANIC, which runs no code of ours either.
CANNOT_RAISE = set('''
    GetUserId GetSessionUserId GetOuterUserId GetAuthenticatedUserId GetCurrentRoleId GetUserIdAndSecContext
    SetUserIdAndSecContext GetCurrentTimestamp GetCurrentSubTransactionId GetCurrentTransactionStartTimestamp
    TransactionIdIsCurrentTransactionId IsInParallelMode IsLogicalWorker NewGUCNestLevel RecoveryInProgress
    GetXLogInsertRecPtr GetSystemIdentifier BackendPidGetProc PostmasterIsAliveInternal
    LWLockAcquire LWLockRelease LockHeldByMe SHMQueueEmpty SHMQueueNext s_lock SetLatch ResetLatch pg_usleep
    get_timeout_active get_timeout_indicator enable_timeout_after enable_timeout_at enable_timeout_every disable_timeout
    pg_strong_random pg_prng_double pg_prng_uint64 pg_mbcliplen pg_next_dst_boundary pg_snprintf pg_strcasecmp strlcpy
    unpack_sql_state FlushErrorState assign_synchronous_commit
    MemoryContextDelete MemoryContextReset MemoryContextSetParent pfree
    SPI_getbinval SPI_finish PopOverrideSearchPath toast_raw_datum_size'''.split())
# They may, but not as we call them: tables of fixed size in shared memory, never HASH_ENTER, one scan at a time.
CANNOT_RAISE |= {'hash_search', 'hash_seq_init', 'hash_seq_search', 'hash_seq_term', 'hash_get_num_entries'}

# Where an error becomes an exception. guard() itself is a template, which gives this its thunk.
CATCHES = '_ZN8jobqueue6detail10run_caughtEPFvPvES1_'
GUARD = '_ZN8jobqueue5guardI'

SYMBOL = r'@("(?:[^"\\]|\\.)*"|[\w.$]+)'
ATTRIBUTES = ('noundef|nonnull|align|dereferenceable|dereferenceable_or_null|signext|zeroext|byval|sret|nocapture|'
              'readonly|writeonly|noalias|returned|inreg|immarg|allocalign')
END_OF_TYPE = re.compile(rf' (?:{ATTRIBUTES})\b| [%@"\d-]| null| undef| poison| getelementptr| bitcast| \(|$')
BEFORE_RESULT = re.compile(rf'^(?:(?:{ATTRIBUTES}|fastcc)(?:\(\d+\)| \d+)? )*')


@dataclass
class Call:
    callee: str     # None: by a pointer
    type: tuple
    arguments: list  # the functions among them
    pad: str         # what is behind it: '', 'cleanup', 'catch', 'catch all', 'terminate'
    nounwind: bool
    place: str


@dataclass
class Function:
    name: str
    type: tuple
    nounwind: bool
    is_local: bool
    place: str
    calls: list = field(default_factory=list)
    addresses: list = field(default_factory=list)  # functions whose address it returns, or writes somewhere


def plain(symbol):
    return symbol[1:-1] if symbol.startswith('"') else symbol


def symbols(text):
    return [plain(name) for name in re.findall(SYMBOL, text)]


def kind_of(text):
    """A type, as far as it tells functions apart: compilers since 15 write all pointers alike."""
    text = text.strip()
    text = text[:END_OF_TYPE.search(' ' + text).start()] if text else text
    return 'pointer' if text.endswith('*') or text.startswith('ptr') else text.strip()


def split(text):
    """At the commas outside of brackets, up to the bracket that closes the list."""
    parts, depth, start, quoted = [], 0, 0, False
    for i, letter in enumerate(text):
        if letter == '"':
            quoted = not quoted
        elif quoted:
            continue
        elif letter in '([{<':
            depth += 1
        elif letter in ')]}>' and depth == 0:
            break
        elif letter in ')]}>':
            depth -= 1
        elif letter == ',' and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    else:
        i = len(text)
    return [part for part in parts + [text[start:i]] if part.strip()], i


class Module:
    """One file."""

    def __init__(self, path):
        with open(path, encoding='utf-8', errors='replace') as file:
            self.lines = file.read().split('\n')
        self.functions, self.quiet, self.initial, self.aliases = {}, set(), [], {}
        self.attributes, self.debug = {}, {}
        for line in self.lines:
            if line.startswith('attributes #'):
                number, text = re.match(r'attributes #(\d+) = \{(.*)\}', line).groups()
                self.attributes[number] = text.split()
            elif line.startswith('!') and (found := re.match(r'!(\d+) = (?:distinct )?!(DI\w+)\((.*)\)$', line)):
                self.debug[found[1]] = found.groups()[1:]
        self.read()

    def is_nounwind(self, text):
        return any('nounwind' in self.attributes.get(number, ()) for number in re.findall(r' #(\d+)', text))

    def place(self, text):
        found = re.search(r'!dbg !(\d+)', text)
        node, line, file = found and found[1], None, '?'
        while node in self.debug:
            kind, text = self.debug[node]
            if kind == 'DIFile':
                file = re.search(r'filename: "(?:\./)?([^"]*)"', text)[1]
                break
            if line is None and (number := re.search(r'\bline: (\d+)', text)):
                line = number[1]
            node = re.search(r'(?:scope|file): !(\d+)' if kind == 'DILocation' else r'file: !(\d+)', text)
            node = node and node[1]
        return f'{file}:{line}'

    def read(self):
        function, block, pads, invokes = None, None, {}, []
        for number, line in enumerate(self.lines):
            if line.startswith('define '):
                function = self.definition(line)
                block, pads, invokes = None, {}, []
            elif function is None:
                if line.startswith('declare '):
                    if self.is_nounwind(line[line.rindex(')'):]):
                        self.quiet.add(symbols(line)[0])
                elif line.startswith('@') and ' alias ' in line:
                    alias, target = symbols(line)[:2]
                    self.aliases[alias] = target
                elif line.startswith('@'):
                    self.initial += symbols(line)[1:]
            elif line == '}':
                for call, label in invokes:
                    call.pad = pads[label]
                function = None
            elif label := re.match(r'("?[\w.$-]+"?):', line):
                block = label[1]
            elif 'landingpad {' in line:
                pads[block] = self.pad_at(number)
            elif instruction := re.match(r'\s+(?:%[\w.]+ = )?(?:tail |musttail |notail )?(call|invoke) (.*)', line):
                tail = line if ' unwind label ' in line or instruction[1] == 'call' else self.lines[number + 1]
                call = self.call(instruction[2], tail)
                function.calls.append(call)
                if instruction[1] == 'invoke':
                    invokes.append((call, re.search(r'unwind label %("?[\w.$-]+"?)', tail)[1]))
            elif re.match(r'\s+(store|ret) ', line):
                function.addresses += symbols(line)

    def definition(self, line):
        found = re.search(SYMBOL + r'\(', line)
        parameters, length = split(line[found.end():])
        rest = line[found.end() + length:]
        result = line[len('define '):found.start()].split()
        while result[0] in ('internal', 'private', 'linkonce_odr', 'weak_odr', 'weak', 'dso_local', 'hidden',
                            'protected', 'noundef', 'zeroext', 'signext', 'nonnull', 'unnamed_addr'):
            result.pop(0)
        name = plain(found[1])
        kinds = (kind_of(' '.join(result)), *map(kind_of, parameters))
        function = Function(name, kinds, self.is_nounwind(rest), ' internal ' in line[:found.start()],
                            self.place(rest))
        self.functions[name] = function
        return function

    def call(self, text, tail):
        found = re.search(r'(@"(?:[^"\\]|\\.)*"|@[\w.$]+|%[\w.]+|asm [^(]*)\(', text)
        if not found:
            return Call('', (), [], '', True, self.place(tail))
        arguments, length = split(text[found.end():])
        rest = text[found.end() + length:]
        direct = found[1].startswith('@')
        result = BEFORE_RESULT.sub('', text[:found.start()])
        kinds = (kind_of(result.split('(')[0] if result.rstrip().endswith(')') else result), *map(kind_of, arguments))
        return Call(plain(found[1][1:]) if direct else '' if found[1].startswith('asm') else None, kinds,
                    symbols(text[found.end():found.end() + length]), '', self.is_nounwind(rest), self.place(tail))

    def pad_at(self, number):
        clauses = []
        while re.match(r'\s+(cleanup|catch|filter)', self.lines[number + 1]):
            number += 1
            clauses.append(self.lines[number].strip())
        for line in self.lines[number:number + 12]:
            if '__clang_call_terminate' in line:
                return 'terminate'  # noexcept
            if not line:
                break
        if any(re.match(r'catch \S+ null', clause) for clause in clauses):
            return 'catch all'
        return 'cleanup' if 'cleanup' in clauses else 'catch'


class Program:
    def __init__(self, paths, exported):
        self.exported, self.functions, self.quiet, self.initial = exported, {}, set(), set()
        aliases = {}
        for path in paths:
            module = Module(path)
            self.quiet |= module.quiet
            aliases.update(module.aliases)
            local = {name for name, function in module.functions.items() if function.is_local}

            def unique(name, path=path, local=local):
                return f'{path}/{name}' if name in local else name
            self.initial |= set(map(unique, module.initial))
            for name, function in module.functions.items():
                function.addresses = [unique(one) for one in function.addresses]
                for call in function.calls:
                    call.callee = unique(call.callee) if call.callee else call.callee
                    call.arguments = [unique(one) for one in call.arguments]
                self.functions.setdefault(unique(name), function)
        for function in self.functions.values():
            for call in function.calls:
                call.callee = aliases.get(call.callee, call.callee)
        taken = self.initial | {name for function in self.functions.values() for name in function.addresses}
        taken |= {name for function in self.functions.values() for call in function.calls for name in call.arguments}
        self.by_type = defaultdict(list)
        for name in sorted(taken & set(self.functions)):
            self.by_type[self.functions[name].type].append(name)
        self.raises = self.spread(self.raises_itself, lambda name: name != CATCHES)
        self.throws = self.spread(self.throws_itself, lambda name: not self.functions[name].nounwind)

    def callees(self, call):
        return [call.callee] if call.callee is not None else self.by_type[call.type]

    def is_server(self, name):
        return name not in self.functions and name in self.exported

    def raises_itself(self, call):
        return next((name for name in self.callees(call) if self.is_server(name) and name not in CANNOT_RAISE), None)

    def throws_itself(self, call):
        if call.nounwind or call.callee in self.functions or not call.callee:
            return None
        is_thrower = call.callee.startswith('_Z') or call.callee in ('__cxa_throw', '__cxa_rethrow')
        return call.callee if is_thrower and call.callee not in self.quiet and not self.is_caught(call) else None

    @staticmethod
    def is_caught(call):
        return call.pad in ('catch all', 'terminate')

    def spread(self, itself, passes_on):
        """Functions of which this is true, each with the one it has it from."""
        found, callers = {}, defaultdict(set)
        for name, function in self.functions.items():
            if not passes_on(name):
                continue
            for call in function.calls:
                if name not in found and (cause := itself(call)):
                    found[name] = cause
                if itself == self.throws_itself and (call.nounwind or self.is_caught(call) or (
                        call.callee is None and GUARD not in name)):
                    continue
                for callee in self.callees(call):
                    callers[callee].add(name)
        work = list(found)
        while work:
            name = work.pop()
            for caller in callers[name] - found.keys():
                found[caller] = name
                work.append(caller)
        return found

    def source(self, name, found):
        """The function that does it, and what it calls."""
        while found[name] in found:
            name = found[name]
        return name, found[name]

    def jumps(self):
        """Errors that jump over objects: {who raises: (what raises, [where the objects wait])}"""
        jumps = defaultdict(lambda: (set(), set()))
        for name, function in self.functions.items():
            for call in function.calls if name != CATCHES else ():
                if call.pad in ('', 'terminate'):
                    continue
                sources = [self.source(callee, self.raises) for callee in self.callees(call) if callee in self.raises]
                if cause := self.raises_itself(call):
                    sources.append((name, cause))
                for raiser, cause in sources:
                    jumps[raiser][0].add(cause)
                    jumps[raiser][1].add(call.place)
        return jumps

    def called_by_server(self):
        """{function: why}"""
        entries = {}
        own_calls = {call.type for name, function in self.functions.items() for call in function.calls
                     if call.callee is None and name != CATCHES}
        for name, function in self.functions.items():
            if not function.is_local and not name.startswith('_Z'):
                entries[name] = 'called by the server'
            if GUARD in name and '8__invoke' in name:
                entries[name] = 'given to guard()'
            for call in function.calls:
                if call.callee is not None and self.is_server(call.callee):
                    entries.update((one, f'given to {call.callee}()') for one in call.arguments)
            for address in function.addresses:
                if address in self.functions and self.functions[address].type not in own_calls:
                    entries.setdefault(address, 'kept for the server')
        return {name: why for name, why in entries.items() if name in self.functions}

    def place(self, entry):
        """Of what is given to guard(), where the callable stands."""
        while entry in self.throws and self.functions[entry].place.startswith('src/pg/guard.hpp:'):
            entry = self.throws[entry]
        return self.functions[entry].place

    def problems(self):
        """[(places, text)]"""
        problems = []
        for raiser, (causes, places) in sorted(self.jumps().items()):
            function = self.functions[raiser]
            problems.append((sorted(places), f'an error would jump over objects: {function.name} ({function.place}) '
                             f'calls {", ".join(sorted(causes))} without guard()'))
        for name, why in sorted(self.called_by_server().items()):
            if name in self.throws:
                thrower, cause = self.source(name, self.throws)
                problems.append(([self.place(name)], f'an exception would reach the server: '
                                 f'{self.functions[name].name} is {why}, and {self.functions[thrower].name} calls '
                                 f'{cause}'))
        return problems


def marked(path):
    with open(path, encoding='utf-8') as file:
        return {f'{path}:{number}' for number, line in enumerate(file, 1) if '/* fault */' in line}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--server', required=True)
    parser.add_argument('--faults', metavar='FILE', help='expect what is wrong in this source, and nothing else')
    parser.add_argument('files', nargs='+')
    options = parser.parse_args()
    listing = subprocess.run(['nm', '-D', '--defined-only', options.server], check=True, capture_output=True, text=True)
    program = Program(options.files, {line.split()[-1] for line in listing.stdout.splitlines()})
    problems = program.problems()

    if options.faults:
        found, expected = {place for places, text in problems for place in places}, marked(options.faults)
        for place in sorted(expected - found):
            print(f'{place}: this fault was not found')
        for place in sorted(found - expected):
            print(f'{place}: this is no fault')
        return found != expected
    text = '\n'.join(f'{", ".join(places[:3] + ["..."] * (len(places) > 3))}: {text}' for places, text in problems)
    print(subprocess.run(['c++filt'], input=text, check=True, capture_output=True, text=True).stdout)
    print(f'{len(program.functions)} functions, {len(problems)} problems')
    return len(problems) > 0


if __name__ == '__main__':
    sys.exit(main())
