"""Puts the code blocks of doc/clients.md into the programs beside this file, so that the test runs what the page says.

    assemble.py check PAGE                          each block of the page is in a program, and each program finds its blocks
    assemble.py make PAGE PROGRAM [pooled]          prints the program with its blocks
    assemble.py block PAGE HEADING NUMBER           prints a block

A program says in a comment which part of the page it runs ("section: psycopg 3"). A comment "BLOCK 2" is a line of its own, and
stands for the second block below that heading. POOLER_OPTION stands for what the table of pgbouncer gives for that heading, if
the run is pooled, and for nothing otherwise, with the separator before it.
"""

import pathlib
import re
import sys

HERE = pathlib.Path(__file__).parent


def blocks_of(page):
    """The code blocks by heading, and the options of the table by client."""
    blocks, options, heading, block = {}, {}, None, None
    for line in page.read_text(encoding="utf-8").splitlines():
        if block is not None:
            if line.startswith("```"):
                block = None
            else:
                block.append(line)
        elif line.startswith("```"):
            block = []
            blocks.setdefault(heading, []).append(block)
        elif title := re.match(r"#+ (.*)", line):
            heading = title[1]
        elif heading == "pgbouncer" and (row := re.match(r"\| ([^|]+) \| .*?(?:`([^`]+)`.*)?\|$", line)):
            for client in row[1].split(", "):
                options[client] = row[2]
    return blocks, options


def programs():
    for path in sorted(HERE.glob("*/*")):
        if path.is_file() and (section := re.search(r"section: (.*\S)", path.read_text(encoding="utf-8"))):
            yield path


def make(page, program, pooled):
    blocks, options = blocks_of(page)
    text = program.read_text(encoding="utf-8")
    section = re.search(r"section: (.*\S)", text)[1]
    used = set()

    def put(mark):
        number = int(mark[2])
        used.add(number)
        lines = blocks.get(section, [])[number - 1 :][:1] or sys.exit(f"{page}: {section} has no block {number}")
        return "\n".join((mark[1] + line).rstrip() for line in lines[0])

    text = re.sub(r"^([ \t]*)(?:#|//) BLOCK (\d+)$", put, text, flags=re.MULTILINE)
    if "POOLER_OPTION" in text:
        option = options.get(section) or sys.exit(f"{page}: pgbouncer's table has nothing for {section}")
        text = re.sub(r"((?:, |[&.])?)POOLER_OPTION", lambda m: m[1] + option if pooled else "", text)
    elif options.get(section, "") is not None and section in options:
        sys.exit(f"{page}: nothing runs the option of {section}: {options[section]}")
    return section, used, text


def check(page):
    blocks, _ = blocks_of(page)
    left = {(section, number + 1) for section, found in blocks.items() for number in range(len(found))}
    for program in programs():
        section, used, _ = make(page, program, True)
        left -= {(section, number) for number in used}
    for section, number in sorted(left):
        print(f"{page}: nobody runs block {number} of {section}")
    return 1 if left else 0


def main(command, page, *rest):
    page = pathlib.Path(page)
    if command == "check":
        return check(page)
    if command == "make":
        print(make(page, HERE / rest[0], "pooled" in rest[1:])[2])
    if command == "block":
        print("\n".join(blocks_of(page)[0][rest[0]][int(rest[1]) - 1]))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
