#!/bin/sh
# SPDX-License-Identifier: MIT
#
# check.sh MODEL.pml [PLANT...]
#
# Has spin go through every state of a model: as it is, when nothing else is told, it must
# be free of errors; with each plant that its head names, or only those given, an error has to
# be found. A search that is cut short proves nothing and is a failure. A head may name several
# configurations, since one that has everything would be too large: the model has to be free of
# errors in each of them, and one of them has to show a plant.
#
# Exit: 0 all as it should be, 1 not, 77 spin or a compiler is missing.
model=$1
shift
cc=${CC:-cc}
command -v spin > /dev/null || { echo "models: spin is not installed"; exit 77; }
command -v "$cc" > /dev/null || { echo "models: no C compiler, \$CC"; exit 77; }
scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' INT TERM
name=$(basename "$model" .pml)

# search CONFIG [PLANT]: the verifier's report goes to $scratch/out
search() {
	rm -rf "$scratch/pan"*
	(cd "$scratch" && spin -a $1 ${2:+-D"$2"} "$model" > spin.log 2>&1 &&
		"$cc" -O1 -w -DSAFETY -DNOFAIR -DCOLLAPSE -DMEMLIM=1000 -o pan pan.c \
			>> spin.log 2>&1) || {
		echo "models: $name $* cannot be built"
		cat "$scratch/spin.log"
		exit 1
	}
	(cd "$scratch" && ./pan -m100000 -n > out 2>&1)
}

errors() {
	sed -n 's/.*errors: \([0-9]*\).*/\1/p' "$scratch/out"
}

complete() {
	! grep -Eq 'max search depth too small|Search not completed|out of memory|reached -DMEMLIM' \
		"$scratch/out"
}

plants=$*
grep '^ \* config: ' "$model" | sed 's/^ \* config: *//' > "$scratch/configs"
[ -s "$scratch/configs" ] || echo "-D${name}_model" > "$scratch/configs"
if [ -z "$plants" ]; then
	plants=$(sed -n 's/^ \* plant: \([A-Z_]*\).*/\1/p' "$model")
	while read -r config; do
		search "$config"
		if [ "$(errors)" != 0 ] || ! complete; then
			echo "models: $name $config: an error, or not gone through:"
			cat "$scratch/out"
			(cd "$scratch" && [ -f "$name.pml.trail" ] &&
				spin -t -p $config "$model" | tail -n 80)
			exit 1
		fi
		sed -n "s/^ *\([0-9.e+]*\) states, stored.*/models: $name: \1 states, no error/p" \
			"$scratch/out"
	done < "$scratch/configs"
fi
bad=0 nr=0
for plant in $plants; do
	nr=$((nr + 1)) found=
	while read -r config; do
		search "$config" "$plant"
		[ "$(errors)" -gt 0 ] 2> /dev/null || continue
		found=$(sed -n 's/^pan:1: //p' "$scratch/out")
		break
	done < "$scratch/configs"
	echo "models: $name: $plant: ${found:-NOT FOUND}"
	[ -n "$found" ] || bad=$((bad + 1))
done
echo "models: $name: $nr planted, $((nr - bad)) found"
[ $nr -gt 0 ] && [ $bad -eq 0 ]
