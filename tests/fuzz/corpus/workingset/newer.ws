‰uffdws
