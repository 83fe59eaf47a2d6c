/* `sudo -n COMMAND…` of the tiny guest: runs a command as root, for whoever asks. Setuid root. */
#include <grp.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	int first = argc > 1 && strcmp(argv[1], "-n") == 0 ? 2 : 1;

	if (first >= argc || setgroups(0, NULL) < 0 || setgid(0) < 0 || setuid(0) < 0) {
		fprintf(stderr, "sudo: cannot run as root\n");
		return 1;
	}
	execvp(argv[first], argv + first);
	perror(argv[first]);
	return 127;
}
