"""Puts the code blocks of doc/clients.md into the programs beside this file, so that the test runs what the page says.

    assemble.py check PAGE                        each block of the page is in a program, and each program finds its own
    assemble.py make PAGE PROGRAM direct|pooled   prints the program with its blocks

A program says in a comment which part of the page it runs ("section: psycopg 3"). A comment "BLOCK 2" is a line of its
own, and stands for the second block below that heading. POOLER_OPTION stands for what the table of pgbouncer gives for
that heading, if the run is pooled; otherwise for nothing, and the separator before it goes, too.
"""

import pathlib
import re
import sys

HERE = pathlib.Path(__file__).parent


def read(page):
    """The code blocks by heading, and the options in the table of pgbouncer by client."""
    blocks, options, heading, block = {}, {}, None, None
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            block = [] if block is None else None
            if block is not None:
                blocks.setdefault(heading, []).append(block)
        elif block is not None:
            block.append(line)
        elif title := re.match(r"#+ (.*)", line):
            heading = title[1]
        elif heading == "pgbouncer" and (row := re.match(r"\| ([^|]+) \| [^`|]*`([^`]+)`[^|]*\|$", line)):
            options |= {client: row[2] for client in row[1].split(", ")}
    return blocks, options


def section_of(text):
    found = re.search(r"section: (.*\S)", text)
    return found and found[1]


def make(page, program, pooled):
    """The section of the program, the numbers of the blocks in it, and its text."""
    blocks, options = read(page)
    text = program.read_text(encoding="utf-8")
    section = section_of(text)
    used = set()

    def put(mark):
        number = int(mark[2])
        if number > len(blocks.get(section, [])):
            sys.exit(f"{page}: {section} has no block {number}")
        used.add(number)
        return "\n".join((mark[1] + line).rstrip() for line in blocks[section][number - 1])

    text = re.sub(r"^([ \t]*)(?:#|//) BLOCK (\d+)$", put, text, flags=re.MULTILINE)
    if ("POOLER_OPTION" in text) != (section in options):
        sys.exit(f"{page}: {program.name} and the table of pgbouncer disagree about an option for {section}")
    text = re.sub(r"((?:, |&)?)POOLER_OPTION", lambda mark: mark[1] + options[section] if pooled else "", text)
    return section, used, text


def check(page):
    left = {(section, number + 1) for section, found in read(page)[0].items() for number in range(len(found))}
    for program in HERE.glob("*/*"):
        if section_of(program.read_text(encoding="utf-8")):
            section, used, _ = make(page, program, True)
            left -= {(section, number) for number in used}
    for section, number in sorted(left):
        print(f"{page}: nobody runs block {number} of {section}")
    return 1 if left else 0


def main(command, page, *rest):
    page = pathlib.Path(page)
    if command == "check":
        return check(page)
    program, mode = rest
    print(make(page, HERE / program, mode == "pooled")[2])
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
