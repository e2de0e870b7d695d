from tlnb.cli import main

raise SystemExit(main())
