/*
 * Reads blocks of inputs, NARGS numbers each, and answers with one number for each input.
 * CASES is a list of X(name, expression in a[]).
 */
static u64 call(int which, const u64 *a)
{
	int i = 0;
#define X(name, expression)	if (which == i++) return (u64)(expression);
	CASES
#undef X
	return 0;
}

int main(int argc, char **argv)
{
	static u64 in[512][NARGS], out[512];
	int which = -1, i = 0;
	size_t n;

#define X(name, expression)	if (!strcmp(argv[1], #name)) which = i; i++;
	CASES
#undef X
	if (which < 0)
		return 2;
	while ((n = fread(in, sizeof(in[0]), 512, stdin))) {
		for (size_t j = 0; j < n; j++)
			out[j] = call(which, in[j]);
		fwrite(out, sizeof(out[0]), n, stdout);
		fflush(stdout);
	}
	return 0;
}
