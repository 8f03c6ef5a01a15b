# 9ci(1) completes its command lines itself: 9ci help -complete says what can stand for
# the last word.
function __fish_9ci_complete
	set -l words (commandline -opc)
	set -l list (command 9ci help -complete -- $words[2..] (commandline -ct | string unescape) 2>/dev/null)
	if test $status = 1
		__fish_complete_path (commandline -ct)
	else
		string join \n -- $list
	end
end
complete -c 9ci -f -a '(__fish_9ci_complete)'
