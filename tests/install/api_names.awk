# SPDX-License-Identifier: MIT
# Prints "function NAME" or "object NAME" for everything that the headers given
# declare with IOMAP_API.

# Not code: comments, and preprocessor lines with their continuations.
function code(line,    out, end)
{
	out = ""
	while (line != "") {
		if (in_comment) {
			end = index(line, "*/")
			if (!end)
				return out
			line = substr(line, end + 2)
			in_comment = 0
		} else if ((end = index(line, "/*")) > 0) {
			out = out substr(line, 1, end - 1) " "
			line = substr(line, end + 2)
			in_comment = 1
		} else {
			out = out line
			line = ""
		}
	}
	sub(/\/\/.*/, "", out)
	return out
}

function declaration(text,    name)
{
	if (text !~ /(^|[^A-Za-z0-9_])IOMAP_API([^A-Za-z0-9_]|$)/)
		return
	if (match(text, /iomap_[a-z0-9_]+[ \t]*\(/)) {
		name = substr(text, RSTART, RLENGTH - 1)
		sub(/[ \t]+$/, "", name)
		print "function " name
	} else if (match(text, /iomap_[a-z0-9_]+[ \t]*(\[[^]]*\])?[ \t]*$/)) {
		name = substr(text, RSTART, RLENGTH)
		sub(/[^a-z0-9_].*/, "", name)
		print "object " name
	} else {
		print "api_names: not understood: " text > "/dev/stderr"
		exit 1
	}
}

FNR == 1 {
	in_comment = in_directive = 0
	statement = ""
}

{
	line = code($0)
	if (in_directive || line ~ /^[ \t]*#/) {
		in_directive = (line ~ /\\[ \t]*$/)
		next
	}
	statement = statement " " line
	while (match(statement, /[;{}]/)) {
		declaration(substr(statement, 1, RSTART - 1))
		statement = substr(statement, RSTART + 1)
	}
}
