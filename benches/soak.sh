#!/usr/bin/env bash
# Soak: many clients for some minutes against one server whose connections are cut, whose clients are killed, and which is
# killed and started again. In the end every tree must be what was sent, nothing may be left over, and the server's
# memory and open files must be what they were.
#
#   benches/soak.sh [MINUTES [CLIENTS]]      default: 5 minutes, 8 clients
#
# It needs a release build, rsync (to compare with code that is not haul's), and ss from iproute2 as root to cut
# connections; without ss it only kills. Everything it makes is in a directory of its own, which it removes.
set -euo pipefail
cd "$(dirname "$0")/.."
minutes=${1:-5}
clients=${2:-8}
haul=$PWD/target/release/haul
[ -x "$haul" ] || { echo "cargo build --release comes first" >&2; exit 1; }
command -v rsync >/dev/null || { echo "rsync is not installed" >&2; exit 1; }
work=$(mktemp -d)
server=
cleanup() {
  trap - EXIT
  jobs -p | xargs -r kill 2>/dev/null || true
  [ -n "$server" ] && kill -9 "$server" 2>/dev/null || true
  rm -rf "$work"
}
trap cleanup EXIT

port=
serve() {
  "$haul" serve --json --listen "127.0.0.1:${port:-0}" --state "$work/state" "$work/root" \
    >"$work/ready" 2>>"$work/server.log" &
  server=$!
  until [ -s "$work/ready" ]; do sleep 0.05; done
  port=$(sed -n 's/.*"address":"[^"]*:\([0-9]*\)".*/\1/p' "$work/ready" | head -1)
}
rss() { awk '/^VmRSS/ {print $2}' "/proc/$server/status"; }
files() { ls "/proc/$server/fd" | wc -l; }

mkdir "$work/root"
serve
for n in $(seq "$clients"); do
  mkdir -p "$work/c$n"
  HAUL_CONFIG_DIR=$work/c$n/config "$haul" login --name srv "127.0.0.1:$port" \
    < <("$haul" invite "user$n" --state "$work/state") 2>/dev/null
  # a tree of its own: many small files, some larger, one of 48 MiB, symlinks
  tree=$work/c$n/tree
  mkdir -p "$tree/small" "$tree/links"
  for i in $(seq 300); do head -c $((RANDOM % 9000)) /dev/urandom >"$tree/small/$i"; done
  for i in 1 2 3; do head -c $((i * 1500000)) /dev/urandom >"$tree/medium-$i"; done
  head -c $((48 << 20)) /dev/urandom >"$tree/large"
  ln -s ../small/1 "$tree/links/one"
done

end=$((SECONDS + minutes * 60))
client() {
  local n=$1 runs=0 killed=0 failed=0 code pid
  export HAUL_CONFIG_DIR=$work/c$n/config
  while [ $SECONDS -lt $end ]; do
    # something new each time, so that there is something to send
    head -c $((RANDOM * 100)) /dev/urandom >"$work/c$n/tree/small/$((RANDOM % 300 + 1))"
    head -c $((48 << 20)) /dev/urandom >"$work/c$n/tree/large"
    "$haul" put -rq --retry-for 60 "$work/c$n/tree" "srv:tree-$n" 2>>"$work/c$n/log" &
    pid=$!
    # one in four is killed on its way
    if [ $((RANDOM % 4)) = 0 ]; then
      sleep "0.$((RANDOM % 9))"
      kill -9 $pid 2>/dev/null || true
    fi
    code=0
    wait $pid || code=$?
    case $code in
      0) runs=$((runs + 1)) ;;
      137) killed=$((killed + 1)) ;;
      *) failed=$((failed + 1)); echo "exit $code" >>"$work/c$n/log" ;;
    esac
    if [ $((RANDOM % 3)) = 0 ] && [ $code = 0 ]; then
      rm -rf "$work/c$n/back"
      "$haul" get -rq --retry-for 60 "srv:tree-$n" "$work/c$n/back" 2>>"$work/c$n/log" || {
        code=$?
        failed=$((failed + 1))
        echo "get: exit $code" >>"$work/c$n/log"
      }
    fi
  done
  echo "$runs $killed $failed" >"$work/c$n/result"
}
for n in $(seq "$clients"); do
  HAUL_CONFIG_DIR=$work/c$n/config "$haul" mkdir -p "srv:tree-$n"
  client "$n" &
done

cuts=0 restarts=0 most=0
echo "start: $(rss) kB, $(files) open files"
while [ $SECONDS -lt $end ]; do
  sleep "$((RANDOM % 3 + 1))"
  now=$(rss 2>/dev/null || echo 0)
  [ "$now" -gt "$most" ] && most=$now
  if [ $((RANDOM % 12)) = 0 ]; then
    kill -9 "$server" && wait "$server" 2>/dev/null || true
    sleep "0.$((RANDOM % 9))"
    : >"$work/ready"
    serve
    restarts=$((restarts + 1))
  elif command -v ss >/dev/null; then
    # half of the connections, by the parity of the clients' ports
    for peer in $(ss -Htn state established "sport = :$port" | awk '{print $4}' | sed 's/.*://'); do
      [ $((peer % 2)) = $((RANDOM % 2)) ] && ss -KHtn "sport = :$port and dport = :$peer" >/dev/null 2>&1 && cuts=$((cuts + 1))
    done
  fi
done
for n in $(seq "$clients"); do
  until [ -f "$work/c$n/result" ]; do sleep 0.2; done
done

bad=0
for n in $(seq "$clients"); do
  export HAUL_CONFIG_DIR=$work/c$n/config
  "$haul" put -rq "$work/c$n/tree" "srv:tree-$n" || { echo "client $n: the last put failed"; bad=1; }
  read -r runs killed failed <"$work/c$n/result"
  echo "client $n: $runs runs, $killed killed, $failed failed"
  [ "$failed" = 0 ] || { tail -3 "$work/c$n/log"; bad=1; }
  difference=$(rsync -rlptnc --delete --itemize-changes "$work/c$n/tree/" "$work/root/tree-$n/tree/")
  [ -z "$difference" ] || { echo "client $n: the trees differ:"; echo "$difference" | head; bad=1; }
done
left=$(find "$work/root" -name '.*.haul*' | wc -l)
# sessions of killed clients live for a minute
sleep 65
echo "end: $(rss) kB, at most $most kB, $(files) open files, $left files left over"
echo "$cuts connections cut, $restarts restarts of the server"
[ "$left" = 0 ] || bad=1
[ "$(files)" -lt 40 ] || { echo "open files are not given back"; bad=1; }
[ "$most" -lt 400000 ] || { echo "too much memory"; bad=1; }
exit $bad
