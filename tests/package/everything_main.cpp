// Links two files that include every header.
int everything_one();
int everything_other();
int main() { return everything_one() + everything_other() == 2 ? 0 : 1; }
