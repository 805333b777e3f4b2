"""Reads directives as the batch systems do: each may have several options.

Systems with ``getopt`` (SLURM, OAR, PBS, Moab) take short options together (``-OW``) and
values without a blank (``-c2``, ``-I60``), SLURM and OAR also the beginning of a long option
(``--part=x``). The options of Grid Engine and LSF are words behind one dash. Pure.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

#: {batch system: its options}. Several names of one are separated by ``|``, the last is
#: that in `Option.names`. ``=`` stands for a value, ``=?`` for one that is given behind an
#: equals sign or not at all. Words behind other options belong to them as well.
_TABLE = {
    "slurm": """
        -A|--account= --acctg-freq= -a|--array= --batch= --bb= --bbf= --bcast= -b|--begin=
        --bell -D|--workdir=|--chdir= --cluster=|-M|--clusters= --cluster-constraint=
        --comment= -C|--constraint= --container= --container-id= --contiguous
        -S|--core-spec= --cores-per-socket= --cpu-freq= --cpus-per-gpu= -c|--cpus-per-task=
        --deadline= --delay-boot= -d|--dependency= -m|--distribution= -e|--error=
        -x|--exclude= --exclusive=? --export= --export-file= --extra= -B|--extra-node-info=
        --get-user-env=? --gid= --gpu-bind= --gpu-freq= -G|--gpus= --gpus-per-node=
        --gpus-per-socket= --gpus-per-task= --gres= --gres-flags= -h|--help --hint=
        -H|--hold --ignore-pbs -I|--immediate=? -i|--input= -J|--job-name= --jobid=
        --kill-on-invalid-dep= -L|--licenses= --mail-type= --mail-user= --mcs-label= --mem=
        --mem-bind= --mem-per-cpu= --mem-per-gpu= --mincpus= --network= --nice=?
        -k|--no-kill=? --no-bell --no-requeue --no-shell -F|--nodefile= -w|--nodelist=
        -N|--nodes= -n|--ntasks= --ntasks-per-core= --ntasks-per-gpu= --ntasks-per-node=
        --ntasks-per-socket= --ntasks-per-tres= --oom-kill-step=? --open-mode= -o|--output=
        -O|--overcommit --share|-s|--oversubscribe --parsable -p|--partition= --power=
        --prefer= --priority= --profile= --propagate=? -q|--qos= -Q|--quiet --reboot
        --requeue --reservation= --resv-ports=? --segment= --signal= --sockets-per-node=
        --spread-job --stepmgr --switches= --test-only --thread-spec= --threads-per-core=
        -t|--time= --time-min= --tmp= --tres-bind= --tres-per-task= --uid= --usage
        --use-min-nodes -v|--verbose -V|--version -W|--wait --wait-all-nodes=
        --wait-for-switch= --wckey= --wrap=
    """,
    "oar": """
        -l|--resource= -q|--queue= -I|--interactive -p|--property= -r|--reservation=
        -C|--connect= -s|--stagein= --stagein-md5sum= --checkpoint= -h|--help --notify=
        -t|--type= -d|--directory= -n|--name= --project= --hold --array=
        --array-param-file= -a|--anterior= --signal= -O|--stdout= -E|--stderr= --resubmit=
        -S|--scanscript -X|--xml -Y|--yaml -J|--json -D|--dumper -k|--use-job-key
        --import-job-key-inline-priv= -i|--import-job-key-from-file=
        -e|--export-job-key-to-file= -V|--version
    """,
    "pbs": """
        -a= -A= -b= -c= -C= -d= -D= -e= -E -f -F= -G -h -I -j= -J= -k= -K= -l= -L= -m= -M=
        -n -N= -o= -p= -P= -q= -r= -R= -S= -t= -T= -u= -v= -V -w= -W= -x -X -z
    """,
    "moab": """
        -a= -A= -c= -C= -d= -D= -e= -E -F= -h -I -j= -k= -K -l= -L= -m= -M= -n -N= -o= -p=
        -P= -q= -Q= -r= -S= -t= -T= -u= -v= -V -w= -W= -x= -X -z
    """,
    "sge": """
        -@= -A= -C= -M= -N= -P= -R= -S= -V -a= -ac= -ar= -b= -binding -c= -ckpt= -clear -cwd
        -dc= -display= -dl= -e= -h -hard -help -hold_jid= -hold_jid_ad= -i= -inherit -j= -js=
        -jc= -jsv= -l= -m= -masterl= -masterq= -mods= -nostdin -noshell -notify -now= -o= -ot=
        -p= -par= -pe= -pty= -q= -r= -rou= -sc= -shell= -soft -sync= -t= -tc= -tcon= -terse
        -u= -umask= -v= -verbose -verify -w= -wd= -xd=
    """,
    "lsf": """
        -a= -alloc_flags= -app= -ar -B -b= -C= -c= -clusters= -cn_cu= -cn_mem= -core_isolation=
        -csm= -cwd= -D= -data= -datachk -datagrp= -E= -e= -env= -eo= -Ep= -eptl= -ext= -F= -f=
        -freq= -G= -g= -gpu= -H -h -hl -hostfile= -I -i= -Ip -IS -is= -ISp -ISs -Is -IX -J= -Jd=
        -jobaff= -json= -jsdl= -jsdl_strict= -jsm= -K -k= -L= -Lp= -ln_mem= -ln_slots= -M= -m=
        -mig= -N -Ne -n= -network= -nnodes= -notify= -O= -o= -oo= -outdir= -P= -p= -pack= -ptl=
        -Q= -q= -R= -r -rn -rcacct= -rnc= -S= -s= -sla= -smt= -sp= -stage= -step_cgroup= -T= -t=
        -ti -tty= -U= -u= -ul -V -v= -W= -w= -We= -Wa= -Wep= -Wp= -Wt= -x -XF -yaml= -Zs
    """,
}
_WITH_GETOPT = ("slurm", "oar", "pbs", "moab")
#: Options of the others behind which a value of letters may stand without a blank.
_GLUED = {"sge": ("-N",), "lsf": ("-J", "-P", "-q")}
#: Where ``#`` outside of quotes begins a comment.
_WITH_COMMENTS = ("slurm",)
_WORD = re.compile(r"""(?:[^\s"'\\]|\\.|"(?:\\.|[^"\\])*"|'[^']*')+""")
_UNTIL_COMMENT = re.compile(r"""(?:[^\s"'\\#]|\\.|"(?:\\.|[^"\\])*"|'[^']*')+""")


@dataclass(frozen=True)
class Option:
    """An option of a directive."""

    #: Its name in the table. Several, if a long option is cut so short that it may be any
    #: of them: the batch system refuses it, or has fewer options.
    names: tuple[str, ...]
    #: Its value without quotes; several words are joined by blanks.
    value: str
    #: As a directive of its own.
    text: str


@dataclass(frozen=True)
class _Grammar:
    #: {each name: the name in the table}
    names: dict[str, str]
    #: Names with a value, and those with one behind an equals sign only.
    valued: frozenset[str]
    optional: frozenset[str]


def _grammar(table: str) -> _Grammar:
    names: dict[str, str] = {}
    valued, optional = set(), set()
    for entry in table.split():
        known = [name.rstrip("=?") for name in entry.split("|")]
        names |= dict.fromkeys(known, known[-1])
        if entry.endswith("=?"):
            optional.add(known[-1])
        elif entry.endswith("="):
            valued.add(known[-1])
    return _Grammar(names, frozenset(valued), frozenset(optional))


_GRAMMARS = {system: _grammar(table) for system, table in _TABLE.items()}


def options(directive: str, system: str) -> list[Option]:
    """The options of a directive without its mark, in order.

    [] if it has none, or for a batch system without options (HTCondor).
    """
    if system not in _GRAMMARS or not directive.startswith("-"):
        return []
    grammar = _GRAMMARS[system]
    words = _words(directive, system)
    found: list[Option] = []
    while words:
        raw = words.pop(0)
        if system not in _WITH_GETOPT:
            parts = [_word_option(raw, grammar, system)]
        elif raw.startswith("--"):
            parts = [_long_option(raw, grammar)]
        else:
            parts = list(_short_options(raw, grammar))
        names, value, text = parts.pop()
        found += [Option(flags, "", each) for flags, _, each in parts]
        values = [] if value is None else [value]
        if value is None and grammar.valued.intersection(names) and words:
            taken = words.pop(0)  # also if it begins with a dash
            values, text = [_plain(taken)], f"{text} {taken}"
        while words and not _is_option(words[0]):
            taken = words.pop(0)
            values, text = [*values, _plain(taken)], f"{text} {taken}"
        found.append(Option(names, " ".join(values), text))
    if len(found) == 1:
        return [Option(found[0].names, found[0].value, directive.strip())]
    return found


def separated(directive: str, system: str) -> list[str]:
    """The directive as one directive per option."""
    return [option.text for option in options(directive, system)] or [directive]


def named(directive: str, system: str) -> tuple[str, str]:
    """Name and value of a directive with one option; "" if there is no such name."""
    found = options(directive, system)
    if len(found) != 1 or len(found[0].names) != 1:
        return "", ""
    return found[0].names[0], found[0].value


_Part = tuple[tuple[str, ...], "str | None", str]


def _long_option(raw: str, grammar: _Grammar) -> _Part:
    name, equals, value = raw.partition("=")
    name = _plain(name)
    if name in grammar.names or name == "--":
        names = {grammar.names.get(name, name)}
    else:
        longer = (known for known in grammar.names if known.startswith(name))
        names = {grammar.names[known] for known in longer} or {name}
    given = _plain(value) if equals else "" if grammar.optional >= names else None
    return tuple(sorted(names)), given, raw


def _short_options(raw: str, grammar: _Grammar) -> Iterator[_Part]:
    """The options in a word like ``-OW`` or ``-Oc2``."""
    for place in range(1, len(raw)):
        option = f"-{raw[place]}"
        rest = raw[place + 1 :]
        name = grammar.names.get(option, option)
        with_value = name in grammar.valued or name in grammar.optional
        if with_value or option not in grammar.names:
            yield (name,), _plain(rest) if rest else None, option + rest
            return
        yield (name,), None, option
    if len(raw) == 1:
        yield (raw,), None, raw


def _word_option(raw: str, grammar: _Grammar, system: str) -> _Part:
    name, short = raw, raw[:2]
    if name not in grammar.names and short in grammar.valued:
        # "-n4" or "-Ja[1-3]", unless the option is a longer word
        number = system == "lsf" and re.search(r"[^A-Za-z_-]", raw[2:])
        if number or short in _GLUED.get(system, ()):
            return (short,), _plain(raw[2:].lstrip("=")), raw
    return (grammar.names.get(name, name),), None, raw


def _is_option(raw: str) -> bool:
    return raw.startswith("-") and not re.match(r"-(?:\d|$)", raw)


def _words(text: str, system: str) -> list[str]:
    """The words of a directive, with their quotes."""
    comments = system in _WITH_COMMENTS
    pattern = _UNTIL_COMMENT if comments else _WORD
    words = []
    place = 0
    while rest := text[place:].lstrip():
        if comments and rest.startswith("#"):
            break
        # without the closing quote, up to the next blank
        match = pattern.match(rest) or re.match(r"\S+", rest)
        assert match is not None  # the rest begins with something that is no blank
        words.append(match[0])
        place = len(text) - len(rest) + match.end()
    return words


def _plain(raw: str) -> str:
    """A word without its quotes."""
    try:
        return "".join(shlex.split(raw))
    except ValueError:  # quotes of another kind
        return raw
