#!/usr/bin/env bash
# Makes what deploy/compose.yaml and docs/deploy.md need to be secret: one file each, for this user alone, in the folder
# given or in deploy/secrets. What is there already stays. Beside the folder goes .env, which tells compose whose files
# they are. Run by root the files belong to the image's own user.
set -euo pipefail
umask 077
folder=${1:-$(dirname "$0")/secrets}
user=$(id -u) group=$(id -g)
if [ "$user" = 0 ]; then user=10001 group=10001; fi

hex() { od -An -v -tx1 -N32 /dev/urandom | tr -d ' \n'; }
keep() { # NAME: writes standard input to the file, unless it is there
  local text
  text=$(cat)
  [ -e "$folder/$1" ] || printf '%s\n' "$text" >"$folder/$1"
  [ "$(id -u)" != 0 ] || chown "$user:$group" "$folder/$1"
}

mkdir -p "$folder"
hex | keep service.token
hex | keep admin.key
hex | keep postgres.password
hex | keep grafana.password
printf '{"id": "k-%s", "key": "%s", "created_at": "%s"}' \
  "$(date -u +%Y%m%d)-$(hex | cut -c1-8)" "$(head -c 32 /dev/urandom | base64 | tr -d '\n')" \
  "$(date -u +%Y-%m-%dT%H:%M:%SZ)" | keep secret.key
printf 'database_url = "postgresql://junctor:%s@postgres:5432/junctor"' "$(cat "$folder/postgres.password")" |
  keep database.toml
[ "$(id -u)" != 0 ] || chown "$user:$group" "$folder"
printf 'JUNCTOR_UID=%s\nJUNCTOR_GID=%s\nJUNCTOR_SECRETS=%s\n' "$user" "$group" "$(cd "$folder" && pwd)" \
  >"$(dirname "$folder")/.env"
echo "secrets are in $folder; keep a copy of secret.key apart from the database's backups"
