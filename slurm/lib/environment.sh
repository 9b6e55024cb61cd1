# Where agehpc is installed: on PATH, in a virtual environment, in a container.
# shellcheck shell=bash disable=SC2034 # what is set here is used by the scripts

# Sets AGEHPC_PROGRAM (the words that run agehpc), AGEHPC_PYTHON (those of its Python),
# AGEHPC_INSIDE (what goes before them to enter a container) and AGEHPC_SRUN (flags of srun).
# srun, scontrol and this script stay outside.
agehpc_environment() {
    local kind=${AGEHPC_ENVIRONMENT:-} venv=${AGEHPC_VENV:-$AGEHPC_HOME/.venv}
    AGEHPC_PROGRAM=(agehpc) AGEHPC_PYTHON=(python3) AGEHPC_INSIDE=() AGEHPC_SRUN=()
    if [[ -z $kind ]]; then
        kind=path
        if [[ -n ${AGEHPC_VENV:-} || -x $venv/bin/agehpc ]]; then kind=venv; fi
    fi
    case $kind in
    path) ;;
    venv)
        AGEHPC_PROGRAM=("$venv/bin/agehpc")
        AGEHPC_PYTHON=("$venv/bin/python")
        ;;
    pyxis)
        AGEHPC_SRUN=(--container-image="$(agehpc_image)" --container-workdir="$PWD")
        AGEHPC_SRUN+=(--container-mounts="$(agehpc_mounts | sed 's/.*/&:&/' | paste -sd,)")
        ;;
    apptainer)
        AGEHPC_INSIDE=(apptainer exec --pwd "$PWD" --bind "$(agehpc_mounts | paste -sd,)")
        if ((AGEHPC_GPUS > 0)); then AGEHPC_INSIDE+=(--nv); fi
        AGEHPC_INSIDE+=("$(agehpc_image)")
        ;;
    *)
        agehpc_fail "AGEHPC_ENVIRONMENT=$kind: choose path, venv, pyxis or apptainer"
        ;;
    esac
    # The same in RUN/submit.sh, whose AGEHPC_HOME is another.
    export AGEHPC_ENVIRONMENT=$kind
    if [[ $kind == venv ]]; then export AGEHPC_VENV=$venv; fi
    if [[ -n ${AGEHPC_COMMAND:-} ]]; then
        read -ra AGEHPC_PROGRAM <<<"$AGEHPC_COMMAND"
    elif [[ $kind == path || $kind == venv ]] && ! command -v "${AGEHPC_PROGRAM[0]}" >/dev/null; then
        agehpc_fail "no agehpc command in $venv/bin${AGEHPC_VENV:-" or on PATH"};" \
            "install agehpc where every node sees it, and export AGEHPC_VENV=/path/to/venv"
    fi
    if [[ $kind == pyxis || $kind == apptainer ]]; then
        agehpc_say "in the container $AGEHPC_IMAGE by $kind"
    fi
}

agehpc_image() {
    if [[ -z ${AGEHPC_IMAGE:-} ]]; then
        agehpc_fail "AGEHPC_ENVIRONMENT=$AGEHPC_ENVIRONMENT needs AGEHPC_IMAGE=/path/to/image"
    fi
    echo "$AGEHPC_IMAGE"
}

# Folders that a container sees under their own names, one a line.
agehpc_mounts() {
    {
        printf '%s\n' "$AGEHPC_HOME" "$PWD" "${AGEHPC_LOCAL_TMP:-/tmp}"
        # Results that a container kept for itself would be lost with it.
        if [[ -n $AGEHPC_RUN ]]; then mkdir -p "$AGEHPC_RUN" && (cd "$AGEHPC_RUN" && pwd); fi
        tr ',' '\n' <<<"${AGEHPC_MOUNTS:-}"
    } | awk 'NF && !seen[$0]++'
}

# Runs a command once, on the first node, with the software of the ranks.
agehpc_once() {
    if ((${#AGEHPC_SRUN[@]})); then
        srun --nodes=1 --ntasks=1 --mpi=none --input=none "${AGEHPC_SRUN[@]}" "$@"
    else
        "${AGEHPC_INSIDE[@]}" "$@"
    fi
}
