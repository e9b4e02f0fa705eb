"""What a hostile program may try, one property each, as tables of text: kernel.txt, files.txt, forgery.txt ... read by `table`.

python -m tests.sandbox.attacks WORLD      grades all of them as this user, beside honest programs; prints what became of each as JSON

Not here: what the world must look like afterwards (`test_attacks`).
"""
