"""The scripts by which shells ask `eda` for completions.

click answers the questions. Its own scripts are not used. In bash they lose the server's URL, because bash breaks words
at colons. In zsh they replace `--option=` with the value. In fish they cut descriptions and names at commas.
"""

from __future__ import annotations

from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete, add_completion_class

__all__ = ["SHELLS", "add_shells"]

_BASH = r"""%(complete_func)s() {
    local IFS=$'\n' rest=${COMP_LINE:0:COMP_POINT} words=() word space typed known kind value
    # bash breaks words at colons and equals signs, too. Here they become whole words up to the cursor.
    for word in "${COMP_WORDS[@]:0:COMP_CWORD+1}"; do
        space=${rest%%%%[![:space:]]*}
        rest=${rest:${#space}}
        word=${rest:0:${#word}}
        rest=${rest:${#word}}
        if [[ ${#words[@]} -eq 0 || -n $space ]]; then
            words+=("$word")
        else
            words[${#words[@]}-1]+=$word
        fi
    done
    # bash replaces only the last part of the typed word. So the part before it must not be in the answer.
    typed=${words[${#words[@]}-1]}
    if [[ $typed == -*=* ]]; then typed=${typed#*=}; fi
    known=$typed
    if [[ $word != *[=:@] ]]; then known=${typed%%"$word"}; fi
    known=${known//\\/}
    COMPREPLY=()
    while IFS=, read -r kind value; do
        value=${value#"$known"}
        case $kind,$word in
            plain,\'*) if [[ $value != *\'* ]]; then COMPREPLY+=("$value"); fi ;;
            plain,\"*) if [[ $value != *[\\\"\$\`]* ]]; then COMPREPLY+=("$value"); fi ;;
            plain,*) COMPREPLY+=("$(printf '%%q' "$value")") ;;
            file,*) compopt -o default ;;
            dir,*) compopt -o dirnames ;;
        esac
    done < <(COMP_WORDS="${words[*]}" COMP_CWORD=$((${#words[@]} - 1)) \
        %(complete_var)s=bash_complete %(prog_name)s 2>/dev/null)
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""

_ZSH = r"""#compdef %(prog_name)s

%(complete_func)s() {
    local kind value about line
    local -a names described
    line="${(j: :)${(@)words[1,CURRENT-1]}} $QIPREFIX$IPREFIX$PREFIX"
    if [[ $PREFIX == -*=* ]]; then compset -P 1 '*='; fi
    while IFS= read -r kind && IFS= read -r value && IFS= read -r about; do
        case $kind,$about in
            plain,_) names+=("$value") ;;
            plain,*) described+=("$value:$about") ;;
            file,*) _path_files -f ;;
            dir,*) _path_files -/ ;;
        esac
    done < <(COMP_WORDS="$line" COMP_CWORD=$((CURRENT - 1)) %(complete_var)s=zsh_complete %(prog_name)s 2>/dev/null)
    if (( $#described )); then _describe -V %(prog_name)s described; fi
    if (( $#names )); then compadd -V %(prog_name)s -a names; fi
}

if [[ $funcstack[1] == _%(prog_name)s ]]; then
    %(complete_func)s "$@"  # this is the file _%(prog_name)s of a directory in $fpath
else
    if (( ! $+functions[compdef] )); then autoload -Uz compinit && compinit; fi
    compdef %(complete_func)s %(prog_name)s
fi
"""

_FISH = r"""function %(complete_func)s
    set -l typed (commandline -ct)
    # What is before the command, such as a variable, is not part of its words.
    set -l before '^(?s:.*?[\s/])?(?=%(prog_name)s\s)'
    set -l line (commandline -cp | string collect | string replace -r $before '')
    # fish compares completions with the whole typed word.
    set -l option (string match -r -- '^-[^=]*=' $typed)
    for each in (env COMP_WORDS="$line" COMP_CWORD="$typed" %(complete_var)s=fish_complete %(prog_name)s 2>/dev/null)
        set -l found (string split -m 1 , -- $each)
        switch $found[1]
            case plain
                printf '%%s\n' "$option$found[2]"
            case file
                __fish_complete_path $found[2] | string replace -r '^' -- "$option"
            case dir
                __fish_complete_directories $found[2] | string replace -r '^' -- "$option"
        end
    end
end

complete --no-files --command %(prog_name)s --arguments "(%(complete_func)s)"
"""


class _Bash(BashComplete):
    source_template = _BASH


class _Zsh(ZshComplete):
    source_template = _ZSH


class _Fish(FishComplete):
    source_template = _FISH


SHELLS: dict[str, type[ShellComplete]] = {"bash": _Bash, "zsh": _Zsh, "fish": _Fish}


def add_shells() -> None:
    """Let click answer with these scripts when a shell asks for one."""
    for shell in SHELLS.values():
        add_completion_class(shell)
