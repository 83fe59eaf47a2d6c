#!/bin/sh
# ssh for scp -S: allows the local command that reports an accepted login. scp forbids it; the first option wins.
exec ssh -o PermitLocalCommand=yes "$@"
