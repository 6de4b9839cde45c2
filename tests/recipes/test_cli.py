from workplace import TINY, FOREIGN
pytestmark = FOREIGN

def test_one(workplace):
    a = workplace.frostline("pretrain", *TINY, "data.digits=[0,1,2]")
    print(a)
    b = workplace.frostline("finetune", *TINY, "data.digits=[3,4]", f"init_from={a.run_id}")
    print(b)
    c = workplace.frostline("finetune", "-m", *TINY, "data.digits=[3,4]", f"freeze=full,head")
    print(c)
    import os; print(os.listdir())
    assert 0
